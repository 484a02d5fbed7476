"""Fine-tune a student on one task, as one would fine-tune BERT: from labels alone, or from fine-tuned teachers too."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import Rows
from training.checkpoint import Run
from training.encoding import device_of
from training.head import Head
from training.losses import label_loss, soft_loss
from training.peers import ALONE, Peers
from training.probing import probe, probe_first
from training.recipe import FinetuneRecipe, RecipeError, SoftTargets, as_dict
from training.soft_targets import Teaching, soft_targets
from training.start import Start
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
    head = Head(task.texts, width, task.outputs, recipe.dropout, symmetric=task.symmetric)
    model = TaskModel(start.student, head).to(peers.device)
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
        "encoder.heads": rate * recipe.embedding_rate,
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
