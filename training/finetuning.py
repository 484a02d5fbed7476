"""Fine-tune a student on one task, as one would fine-tune BERT."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.batches import Batches, Rows
from training.checkpoint import Run, RunError
from training.encoding import encode, tokenize
from training.head import Head, fit_head
from training.loop import fit, parameter_groups
from training.peers import ALONE, Peers
from training.recipe import FinetuneRecipe, as_dict
from training.student import Student, load_student
from training.task import Examples, Task

Figures = dict[str, float]


@dataclass(frozen=True)
class Start:
    """The student that a task grows from, its tokenizer, and where it came from.

    `origin` holds the sizes and whatever its recipe and bundle say of it, for the manifest.
    """

    student: Student
    tokenizer: Tokenizer
    origin: dict[str, Any]


class TaskModel(nn.Module):
    """A student and a task's head. `forward` takes token ids, (rows, texts) sequences, and gives logits."""

    def __init__(self, encoder: Student, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """Give logits (rows, outputs)."""
        texts = [ids for row in rows for ids in row]
        vectors = encode_together(self.encoder, texts)  # (rows x texts, width)
        logits: Tensor = self.head(vectors.view(len(rows), self.head.texts, -1))
        return logits


def encode_together(student: Student, texts: Sequence[Sequence[int]]) -> Tensor:
    """Encode texts of any lengths in one pass that gradients flow through, (texts, width)."""
    lengths = torch.tensor([len(ids) for ids in texts])
    if bool((lengths == lengths[0]).all()):
        vectors: Tensor = student(torch.tensor(texts))
        return vectors
    order = torch.argsort(lengths, descending=True, stable=True)  # as packing wants it
    padded = nn.utils.rnn.pad_sequence([torch.tensor(texts[index]) for index in order], batch_first=True)
    vectors = student(padded, lengths[order])
    return vectors[torch.argsort(order)]


def finetune(
    recipe: FinetuneRecipe, task: Task, train: Examples, dev: Examples, start: Path, run: Run, peers: Peers = ALONE
) -> Figures:
    """Fine-tune on a task's rows; the last epoch's weights are kept, whatever the dev rows say of others.

    Args:
        recipe: What to do.
        task: On what.
        train: Labelled rows to learn.
        dev: Labelled rows to score; the run keeps them, so that the export can judge int8 by them.
        start: A student's bundle or run.
        run: Where to keep the result.
        peers: The processes that train together.

    Returns:
        The task's metrics on `dev`.
    """
    origin = load_start(start)
    run.start({**as_dict(recipe), "task": task.name, "from": origin.origin}, origin.tokenizer)
    run.save_facts(
        {
            "kind": "classifier" if task.labels else "regressor",
            "task": asdict(task),
            "width": origin.student.projection.out_features,
            "vocabulary": origin.student.embedding.num_embeddings,
            "max_tokens": origin.origin["max_tokens"],
            "rows": len(train),
        }
    )
    run.save_dev(dev.plain())
    torch.manual_seed(recipe.seed)
    head = Head(task.texts, origin.student.projection.out_features, task.outputs, recipe.dropout)
    model = TaskModel(origin.student, head)
    inputs = task_rows(origin.tokenizer, train, recipe.max_tokens)

    def scored(trained: nn.Module) -> Figures:
        return score_on(trained, task, dev, origin.tokenizer, recipe.max_tokens)

    if recipe.encoder_rate == 0:
        vectors = encode(model.encoder, [ids for row in inputs for ids in row]).reshape(len(train), task.texts, -1)
        fit_head(model.head, vectors, train.labels, task)
        return run.finish(model.state_dict(), scored(model))
    lengths = np.asarray([max(map(len, row)) for row in inputs], dtype=np.int64)
    how = recipe.optimisation
    rates = {"encoder": how.learning_rate * recipe.encoder_rate, "head": how.learning_rate}
    return fit(
        model,
        parameter_groups(model, rates, how.weight_decay),
        Batches(np.arange(len(inputs)), lengths, recipe.seed, how.batch_rows, how.batch_tokens),
        task_loss(model, task, inputs, train.labels),
        how,
        run,
        seed=recipe.seed,
        bfloat16=recipe.precision == "bfloat16",
        evaluate=scored,
        peers=peers,
    )


def task_rows(tokenizer: Tokenizer, examples: Examples, max_tokens: int) -> list[list[list[int]]]:
    """Tokenise each text of each row apart."""
    count = len(examples.texts[0])
    flat = tokenize(tokenizer, [text for texts in examples.texts for text in texts], max_tokens)
    return [flat[first : first + count] for first in range(0, len(flat), count)]


def task_loss(
    model: nn.Module, task: Task, inputs: Sequence[Sequence[Sequence[int]]], labels: NDArray[np.float64]
) -> Callable[[Rows], Tensor]:
    """Give the loss of a batch: cross-entropy for labels, squared error for values."""
    classes = torch.from_numpy(labels.astype(np.int64))
    values = torch.from_numpy(labels.astype(np.float32))

    def loss_of(rows: Rows) -> Tensor:
        logits = model([inputs[row] for row in rows]).float()
        if task.labels:
            return nn.functional.cross_entropy(logits, classes[rows])
        return nn.functional.mse_loss(logits[:, 0], values[rows])

    return loss_of


@torch.inference_mode()
def score_on(model: nn.Module, task: Task, examples: Examples, tokenizer: Tokenizer, max_tokens: int) -> Figures:
    """Give the task's metrics on labelled rows, in float32."""
    model.eval()
    flat = [ids for row in task_rows(tokenizer, examples, max_tokens) for ids in row]
    vectors = encode(model.encoder, flat).reshape(len(examples), task.texts, -1)  # type: ignore[arg-type]
    logits = model.head(torch.from_numpy(vectors))  # type: ignore[operator]
    return task.score(examples.labels, logits.numpy())


def load_start(folder: Path) -> Start:
    """Load a student from a bundle (its float16 weights) or from a run.

    Raises:
        RunError: the folder is neither, or holds something other than a student encoder.
    """
    if (folder / "manifest.json").is_file():
        return _from_bundle(folder)
    run = Run(folder)
    facts, recipe = run.facts(), run.recipe()
    if facts["kind"] != "encoder":
        raise RunError(f"{folder} holds a {facts['kind']}; fine-tuning starts from an encoder")
    origin = {"run": folder.name, "shape": recipe["student"], "max_tokens": facts["max_tokens"]}
    return Start(load_student(recipe["student"], run.weights()), run.tokenizer(), origin)


def _from_bundle(folder: Path) -> Start:
    try:
        manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        shape = manifest["training"]["recipe"]["student"]
        weights = load_file(folder / "weights.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        origin = {"bundle": manifest["name"], "space": manifest["space"], "max_tokens": manifest["max_tokens"]}
        return Start(load_student(shape, weights), tokenizer, {**origin, "shape": shape})
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder} holds no student that can be fine-tuned: {error!r}") from error
