"""Fine-tune a student on one task, as one would fine-tune BERT: from labels alone, or from fine-tuned teachers too."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import Rows
from training.checkpoint import Run, RunError
from training.encoding import Vectors, device_of, text_encoder
from training.head import Head
from training.losses import label_loss, soft_loss
from training.peers import ALONE, Peers
from training.probing import probe, probe_first
from training.recipe import FinetuneRecipe, RecipeError, SoftTargets, StudentShape, as_dict
from training.soft_targets import Teaching, soft_targets
from training.student import Student, build_student, load_student
from training.task import Examples, Task, identity
from training.task_model import (
    Figures,
    Inputs,
    Logits,
    TaskModel,
    facts_of,
    fit_task,
    labelled_loss,
    read_apart,
    scoring,
)
from training.teacher import load_teacher


@dataclass(frozen=True)
class Start:
    """The student that a task grows from, its tokenizer, and where it came from.

    Attributes:
        student: With its weights.
        tokenizer: Its teacher's.
        origin: The sizes, and whatever its recipe and bundle say of it, for the manifest.
        teacher: Of whom it is a student: the installed package, a folder, or a hub id.
    """

    student: Student
    tokenizer: Tokenizer
    origin: dict[str, Any]
    teacher: str

    @property
    def fingerprint(self) -> str:
        """Identify its weights; a run's folder may hold others under the same name tomorrow."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.student.state_dict().items()):
            digest.update(name.encode() + weight.cpu().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts in float32: (texts, width)."""
        return text_encoder(self.student, self.tokenizer, self.origin["max_tokens"])(texts)


def finetune(
    recipe: FinetuneRecipe,
    task: Task,
    train: Examples,
    dev: Examples,
    start: Start,
    run: Run,
    peers: Peers = ALONE,
    teaching: Teaching | None = None,
) -> Figures:
    """Fine-tune on a task's rows; the last epoch's weights are kept, whatever the dev rows say of others.

    Args:
        recipe: What to do.
        task: On what.
        train: Labelled rows to learn.
        dev: Labelled rows to score; the run keeps them, so that the export can judge int8 by them.
        start: The student.
        run: Where to keep the result.
        peers: The processes that train together.
        teaching: With it, task distillation: the recipe's `distillation` says how the teachers' answers count.

    Returns:
        The task's metrics on `dev`.

    Raises:
        RecipeError: a head fitted at once has no use for a teacher.
        TaskError: a teacher has learnt another task.
        RunError: the run's folder holds a run of another recipe, on other rows or from another student, or other
            teachers' answers, or answers to other rows.
    """
    if teaching:
        teaching.require(task)
        if recipe.encoder_rate == 0:
            raise RecipeError("--frozen fits a head to the labels alone: leave out --teacher, or --frozen")
    width = start.student.projection.out_features
    followed = {**_followed(recipe, teaching), "task": task.name, "from": start.origin}
    run.start(followed, start.tokenizer, chain([start.fingerprint], identity(task, train, dev)))
    run.save_facts(
        facts_of(task, width, start.student.embedding.num_embeddings, start.origin["max_tokens"], len(train))
    )
    run.save_dev(dev.plain())
    torch.manual_seed(recipe.seed)
    model = TaskModel(start.student, Head(task.texts, width, task.outputs, recipe.dropout)).to(peers.device)
    frozen = recipe.encoder_rate == 0
    if not (frozen or task.labels):
        model.head.scale_to(train.labels)
    read = read_apart(start.tokenizer, min(recipe.max_tokens, start.origin["max_tokens"]))
    rows = [*train.texts, *(teaching.unlabelled if teaching else ())]
    inputs = read(rows)
    scored = scoring(task, dev, read, run)
    if frozen:
        probe(model, task, inputs, train.labels)
        return run.finish(model.state_dict(), scored(model))
    probe_first(model, task, inputs, train.labels, recipe.seed, run, peers)
    loss_of = labelled_loss(model, task, inputs, train.labels)
    if teaching:
        with peers.one_after_the_other():
            for teacher in teaching.teachers:
                teacher.model.to(peers.device)
            answers = soft_targets(teaching.teachers, rows, run)
        loss_of = taught_loss(model, task, inputs, train.labels, answers, recipe.distillation)
    rate = recipe.optimisation.learning_rate
    lengths = np.asarray([max(map(len, row)) for row in inputs], dtype=np.int64)
    rates = {
        "encoder": rate * recipe.encoder_rate,
        "encoder.embedding": rate * recipe.embedding_rate,
        "encoder.token_weight": rate * recipe.embedding_rate,
        "head": rate,
    }
    return fit_task(model, recipe, rates, lengths, loss_of, scored, run, peers)


def taught_loss(
    model: TaskModel, task: Task, inputs: Inputs, labels: NDArray[np.float64], answers: Logits, how: SoftTargets
) -> Callable[[Rows], Tensor]:
    """Give the loss of a batch against the teachers' answers and, where a row has one, its label.

    Args:
        model: The student's.
        task: What is learnt.
        inputs: Labelled rows, then those without a label.
        labels: Of the former, float64.
        answers: The teachers' logits to all of them, (rows, outputs).
        how: The share of each.
    """
    unknown = np.full(len(inputs) - len(labels), np.nan)
    truth = torch.from_numpy(np.concatenate([labels, unknown]).astype(np.float32)).to(device_of(model))
    expected = torch.from_numpy(answers).to(device_of(model))
    soft = soft_loss(how.kind if task.labels else "logits", how.temperature)

    def loss_of(rows: Rows) -> Tensor:
        logits = model([inputs[row] for row in rows]).float()
        hard = label_loss(logits, truth[rows], classes=bool(task.labels))
        return how.weight * soft(logits, expected[rows]) + (1 - how.weight) * hard

    return loss_of


def _followed(recipe: FinetuneRecipe, teaching: Teaching | None) -> dict[str, Any]:
    """Give what of the recipe is followed: without a teacher nothing is distilled."""
    plain = as_dict(recipe)
    if teaching is None:
        return {name: value for name, value in plain.items() if name != "distillation"}
    teachers = [{"run": teacher.name, "fingerprint": teacher.fingerprint} for teacher in teaching.teachers]
    varied = {"variants_per_row": teaching.per_row} if teaching.per_row else {}
    others = {"transfer_rows": len(teaching.transfer), "transfer_files": list(teaching.files)}
    return {**plain, "taught_by": teachers, **others, **varied}


def from_scratch(start: Start, seed: int) -> Start:
    """Give a student of the same shape that has approximated nothing.

    Its embedding is the teacher's own, reduced by PCA, and all else is random: what it lacks beside `start` is whatever
    was learnt from the teacher's sentence vectors.

    Raises:
        TeacherError: its teacher cannot be loaded.
    """
    teacher = load_teacher(start.teacher)
    torch.manual_seed(seed)
    student = build_student(StudentShape(**start.origin["shape"]), teacher.word_embeddings(), teacher.width)
    kept = {name: start.origin[name] for name in ("shape", "max_tokens")}
    return Start(student, start.tokenizer, {**kept, "scratch": start.teacher}, start.teacher)


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
    return Start(load_student(recipe["student"], run.weights()), run.tokenizer(), origin, recipe["teacher"])


def _from_bundle(folder: Path) -> Start:
    try:
        manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        recipe = manifest["training"]["recipe"]
        weights = load_file(folder / "weights.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        origin = {"bundle": manifest["name"], "space": manifest["space"], "max_tokens": manifest["max_tokens"]}
        origin["shape"] = recipe["student"]
        return Start(load_student(recipe["student"], weights), tokenizer, origin, recipe["teacher"])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder} holds no student that can be fine-tuned: {error!r}") from error
