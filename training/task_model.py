"""A model of one task: an encoder and a head, how it reads the task's rows, how it is trained and how it is scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.batches import Batches, Rows
from training.checkpoint import Run
from training.encoding import device_of, encode, tokenize
from training.head import Head
from training.loop import fit, parameter_groups
from training.losses import label_loss
from training.peers import Peers
from training.recipe import FinetuneRecipe, TeacherTaskRecipe
from training.task import Examples, Task

Figures = dict[str, float]
Texts = tuple[str, ...]
Inputs = list[list[list[int]]]  # token ids of each sequence of each row: two for a pair encoded apart, else one
Reader = Callable[[Sequence[Texts]], Inputs]
Logits = NDArray[np.float32]


class TaskModel(nn.Module):
    """An encoder and a task's head. `forward` takes token ids, (rows, sequences) lists, and gives logits."""

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """Give logits (rows, outputs)."""
        sequences = [ids for row in rows for ids in row]
        vectors = encode_together(self.encoder, sequences)  # (rows x sequences, width)
        logits: Tensor = self.head(vectors.view(len(rows), self.head.texts, -1))
        return logits


def encode_together(encoder: nn.Module, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Encode token ids of any lengths in one pass that gradients flow through, (sequences, width)."""
    lengths, device = torch.tensor([len(ids) for ids in sequences]), device_of(encoder)
    if bool((lengths == lengths[0]).all()):
        vectors: Tensor = encoder(torch.tensor(sequences, device=device))
        return vectors
    order = torch.argsort(lengths, descending=True, stable=True)  # as packing wants it
    padded = nn.utils.rnn.pad_sequence([torch.tensor(sequences[index]) for index in order], batch_first=True)
    vectors = encoder(padded.to(device), lengths[order])
    return vectors[torch.argsort(order).to(device)]


def read_apart(tokenizer: Tokenizer, max_tokens: int) -> Reader:
    """Give a reader that tokenises each text of a row apart: a sequence per text."""

    def read(rows: Sequence[Texts]) -> Inputs:
        count = len(rows[0])
        flat = tokenize(tokenizer, [text for texts in rows for text in texts], max_tokens)
        return [flat[first : first + count] for first in range(0, len(flat), count)]

    return read


def read_joined(tokenizer: Tokenizer, max_tokens: int) -> Reader:
    """Give a reader that joins the texts of a row into one sequence, [CLS] a [SEP] b [SEP]."""

    def read(rows: Sequence[Texts]) -> Inputs:
        joined = [texts[0] if len(texts) == 1 else (texts[0], texts[1]) for texts in rows]
        return [[ids] for ids in tokenize(tokenizer, joined, max_tokens)]

    return read


@torch.inference_mode()
def answer(model: TaskModel, rows: Inputs) -> Logits:
    """Give a model's logits in float32, (rows, outputs)."""
    model.eval()
    vectors = encode(model.encoder, [ids for row in rows for ids in row]).reshape(len(rows), len(rows[0]), -1)
    logits: Logits = model.head(torch.from_numpy(vectors).to(device_of(model))).cpu().numpy()
    return logits


def scoring(task: Task, dev: Examples, read: Reader, run: Run) -> Callable[[nn.Module], Figures]:
    """Give what scores a TaskModel on dev rows, in float32; the run keeps its answers to compare them row by row."""

    def scored(model: nn.Module) -> Figures:
        answers = answer(cast("TaskModel", model), read(dev.texts))
        run.save_dev_answers(answers)
        return task.score(dev.labels, answers)

    return scored


def labelled_loss(
    model: TaskModel, task: Task, inputs: Inputs, labels: NDArray[np.float64]
) -> Callable[[Rows], Tensor]:
    """Give the loss of a batch against its labels."""
    truth = torch.from_numpy(labels.astype(np.float32)).to(device_of(model))

    def loss_of(rows: Rows) -> Tensor:
        logits = model([inputs[row] for row in rows]).float()
        return label_loss(logits, truth[rows], classes=bool(task.labels))

    return loss_of


def facts_of(task: Task, width: int, vocabulary: int, max_tokens: int, rows: int) -> dict[str, object]:
    """Give what every run of a task keeps for the export."""
    return {
        "kind": "classifier" if task.labels else "regressor",
        "task": asdict(task),
        "width": width,
        "vocabulary": vocabulary,
        "max_tokens": max_tokens,
        "rows": rows,
    }


def fit_task(
    model: TaskModel,
    recipe: FinetuneRecipe | TeacherTaskRecipe,
    rates: Mapping[str, float],
    lengths: Rows,
    loss_of: Callable[[Rows], Tensor],
    scored: Callable[[nn.Module], Figures],
    run: Run,
    peers: Peers,
) -> Figures:
    """Train by the one training loop, and give the final figures.

    Args:
        model: Trained in place.
        recipe: How.
        rates: Learning rates by parameter prefix.
        lengths: int64 (rows); rows of equal length share batches.
        loss_of: Mean loss over rows; of values, a squared error in their own unit.
        scored: The task's metrics on its dev rows.
        run: Where checkpoints and metrics go.
        peers: The processes that train together.
    """
    how = recipe.optimisation

    def scaled(rows: Rows) -> Tensor:
        return loss_of(rows) / model.head.spread**2

    return fit(
        model,
        parameter_groups(model, rates, how.weight_decay),
        Batches(np.arange(len(lengths)), lengths, recipe.seed, how.batch_rows, how.batch_tokens),
        scaled,
        how,
        run,
        seed=recipe.seed,
        bfloat16=recipe.precision == "bfloat16",
        evaluate=scored,
        peers=peers,
    )
