"""What a bundle is worth by labelled rows, through the very parts that serve; int8 may cost so much and no more."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from app.bundle import Inputs, Part, Slices, Texts
from app.session import Vectors
from app.tokenizer import Tokenizer
from export.packed_encoder import Encode
from export.parity import ParityError, say
from training.checkpoint import Run
from training.encoding import text_encoder
from training.evaluation import sts_spearman
from training.glue import TASKS, read_dev
from training.recipe import Int8
from training.slices import noisy_rows, score_slices
from training.task import Examples, Task, TaskError

ROUNDING = 1e-9  # of a difference of scores: 0.92 - 0.91 is above 0.01


def sts_figures(student: nn.Module, run: Run, encode_int8: Encode, data: Path, limits: Int8) -> dict[str, float]:
    """Judge int8 by STS-B's dev set; no figures where it is not below `data`."""
    encode_float32 = text_encoder(student, run.tokenizer(), run.facts()["max_tokens"])
    try:
        exact, small = sts_spearman(encode_float32, data), sts_spearman(encode_int8, data)
    except TaskError as error:
        say(f"STS-B not scored: {error}")
        return {}
    return judge("sts_dev_spearman", exact, small, limits)


def sts_slices(reader: Tokenizer, encode: Encode, data: Path) -> Slices | None:
    """Score an encoder by cosines on parts of STS-B's dev set; nothing where it is not below `data`."""
    task = TASKS["stsb"].task
    try:
        dev = read_dev(TASKS["stsb"], data)
    except TaskError:
        return None

    def cosines(rows: Sequence[Texts]) -> Vectors:
        pairs = row_vectors("pair_apart", encode, rows)  # of unit length
        answers: Vectors = (pairs[:, 0] * pairs[:, 1]).sum(axis=1, keepdims=True)
        return answers

    tokens = [sum(len(row.ids) for row in reader.rows([(text,) for text in texts])) for texts in dev.texts]
    return slices(task, dev, tokens, cosines(dev.texts), cosines(noisy_rows(dev.texts)))


def slices(task: Task, dev: Examples, tokens: Sequence[int], answers: Vectors, noisy: Vectors) -> Slices:
    """Say and keep what `score_slices` gives."""
    found = score_slices(task, dev, tokens, answers, noisy)
    parts = {name: Part(rows=one.rows, score=one.score) for name, one in found.items() if one.score is not None}
    for name, part in parts.items():
        say(f"  {task.metrics[0]} on {name}: {part.score:.4f} ({part.rows:,} rows)")
    return Slices(metric=task.metrics[0], parts=parts)


def task_figures(task: Task, dev: Examples, answers: Vectors, exact: float | None, limits: Int8) -> dict[str, float]:
    """Score a task's bundle by its deciding metric, and judge int8 by what PyTorch scores in float32.

    Where the metric is not defined, as a correlation with dev values that are all the same, there are no figures.

    Args:
        task: What is scored.
        dev: Labelled rows.
        answers: The bundle's, (rows, outputs).
        exact: PyTorch's score; none where the bundle itself is in float32.
        limits: What int8 may cost, which is a row's share of the score at least.
    """
    metric = task.metrics[0]
    # of few rows one alone is a larger share, and says nothing of int8
    limits = replace(limits, max_loss=max(limits.max_loss, 1 / len(dev)))
    name, found = f"{task.name}_dev_{metric}", task.score(dev.labels, answers)[metric]
    if exact is not None:
        return judge(name, exact, found, limits)
    if math.isnan(found):
        return _undefined(name)
    say(f"{name}: {found:.4f} in float32")
    return {f"{name}_float32": found}


def row_vectors(inputs: Inputs, encode: Encode, rows: Sequence[Texts]) -> Vectors:
    """Encode rows as a head takes them: float32 (rows, texts, dimensions)."""
    sequences = [encoder_inputs(inputs, texts) for texts in rows]
    return encode([one for of_row in sequences for one in of_row]).reshape(len(rows), len(sequences[0]), -1)


def encoder_inputs(inputs: Inputs, texts: Texts) -> list[Texts]:
    """Give what of a row the encoder gets: the texts of a pair encoded apart one by one, else all at once."""
    return [(text,) for text in texts] if inputs == "pair_apart" else [texts]


def judge(name: str, exact: float, small: float, limits: Int8) -> dict[str, float]:
    """Give a metric's figures in float32 and in int8, none where it is not defined in float32 already.

    Raises:
        ParityError: int8 costs more than it may, or the metric is not defined in int8 alone.
    """
    if math.isnan(exact):
        return _undefined(name)
    say(f"{name}: {exact:.4f} in float32, {small:.4f} in int8")
    if math.isnan(small):
        raise ParityError(f"{name} is {exact:.4f} in float32 and not defined in int8, which answers all rows alike")
    if exact - small > limits.max_loss + ROUNDING:
        raise ParityError(f"int8 costs {exact - small:.4f} of {name}, allowed {limits.max_loss:g} (the recipe's int8)")
    return {f"{name}_float32": exact, f"{name}_int8": small}


def _undefined(name: str) -> dict[str, float]:
    say(f"{name} not scored: it is not defined where all dev rows, or all answers to them, are alike")
    return {}
