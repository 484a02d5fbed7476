"""What a bundle is worth by labelled rows, through the very parts that serve; int8 may cost so much and no more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from app.bundle import Inputs, Texts
from app.session import HeadSession, Vectors
from app.tokenizer import Tokenizer
from export.graph import Scores
from export.packed_encoder import Encode
from export.parity import PARITY_MAX_ABS, ParityError, compare, say
from training.checkpoint import Run
from training.encoding import encode
from training.evaluation import sts_spearman
from training.recipe import Int8
from training.task import Task, TaskError, examples_from
from training.task_model import TaskModel, read_apart, score


def sts_figures(student: nn.Module, run: Run, encode_int8: Encode, data: Path, limits: Int8) -> dict[str, float]:
    """Judge int8 by STS-B's dev set; no figures where it is not below `data`."""
    reader = Tokenizer(run.folder / "tokenizer.json", run.facts()["max_tokens"])

    def encode_float32(texts: Sequence[str]) -> Vectors:
        return encode(student, [row.ids for row in reader.rows([(text,) for text in texts])])

    try:
        exact, small = sts_spearman(encode_float32, data), sts_spearman(encode_int8, data)
    except TaskError as error:
        say(f"STS-B not scored: {error}")
        return {}
    return judge("sts_dev_spearman", exact, small, limits)


def task_figures(
    task: Task,
    inputs: Inputs,
    model: TaskModel,
    run: Run,
    encode_served: Encode,
    head: HeadSession,
    precision: str,
    limits: Int8,
) -> dict[str, float]:
    """Score a task's bundle on its dev rows, and judge int8 by what PyTorch scores in float32."""
    dev, name, metric = examples_from(run.dev()), f"{task.name}_dev_{task.metrics[0]}", task.metrics[0]
    sequences = [sequence for texts in dev.texts for sequence in encoder_inputs(inputs, texts)]
    vectors = encode_served(sequences).reshape(len(dev), model.head.texts, -1)
    found = task.score(dev.labels, head.run(vectors))[metric]
    if precision == "float32":
        say(f"{name}: {found:.4f} in float32")
        return {f"{name}_float32": found}
    exact = score(model, task, dev, read_apart(run.tokenizer(), run.facts()["max_tokens"]))[metric]
    return judge(name, exact, found, limits)


def encoder_inputs(inputs: Inputs, texts: Texts) -> list[str | Texts]:
    """Give what of a row the encoder gets: the texts of a pair encoded apart one by one, else all at once."""
    return list(texts) if inputs == "pair_apart" else [texts]


def judge(name: str, exact: float, small: float, limits: Int8) -> dict[str, float]:
    """Give a metric's figures in float32 and in int8; raises ParityError where int8 costs more than it may."""
    say(f"{name}: {exact:.4f} in float32, {small:.4f} in int8")
    if exact - small > limits.max_loss:
        raise ParityError(f"int8 costs {exact - small:.4f} of {name}, allowed {limits.max_loss:g} (the recipe's int8)")
    return {f"{name}_float32": exact, f"{name}_int8": small}


def head_parity(scores: Scores, session: HeadSession, texts: int, width: int) -> float:
    """Hold a head's graph against PyTorch on random unit vectors: the largest difference, or ParityError."""
    vectors = np.random.default_rng(0).standard_normal((8, texts, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    with torch.inference_mode():
        report = compare(session.run(vectors), scores(torch.from_numpy(vectors)).numpy())
    say(f"head against PyTorch: {report.require(max_abs=PARITY_MAX_ABS)}")
    return report.max_abs
