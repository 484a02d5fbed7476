"""A task's head on its way into a bundle: calibrated, traced with its activation, and proven against PyTorch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app.bundle import Calibration
from app.session import HeadSession, Vectors
from export.calibration import calibrate
from export.graph import Scores, head_graph
from export.packed_encoder import in_file
from export.parity import PARITY_MAX_ABS, compare, say
from training.head import Head
from training.task import Task

TOLERANCES_RANGE = 5.0  # of values: tolerances are stated for STS-B's, 0 to 5


@dataclass(frozen=True)
class PackedHead:
    """A head ready to be served.

    Attributes:
        graph: With activation and temperature inside.
        activation: `softmax` for a classifier, else `none`.
        session: The graph, through the very part that serves.
        calibration: Of a classifier, where its dev rows gave one.
        unit: What a tolerance is multiplied by, see `unit_of`.
        figures: Parity.
    """

    graph: bytes
    activation: str
    session: HeadSession
    calibration: Calibration | None
    unit: float
    figures: dict[str, float]


@torch.inference_mode()
def pack_head(head: Head, task: Task, vectors: Vectors, labels: NDArray[np.float64]) -> PackedHead:
    """Calibrate, trace and prove a head; raises ParityError where the graph answers otherwise than PyTorch.

    Args:
        head: Trained.
        task: Says whether there is anything to calibrate.
        vectors: Of the dev rows, as they are served: (rows, texts, width).
        labels: Of the dev rows.
    """
    head = head.folded().eval()
    calibration = calibrate(head(torch.from_numpy(vectors)).numpy(), labels) if task.labels else None
    activation = "softmax" if task.labels else "none"
    scores = Scores(head, activation, calibration.temperature if calibration else 1.0)
    graph = head_graph(scores, head.texts, vectors.shape[2])
    with in_file(graph) as file:
        session = HeadSession(file)
    unit = unit_of(task, labels)
    # rounding does not shrink with the range of values that lie far from zero: it is a few steps of their float32
    steps = 0.0 if task.labels else 4 * float(np.spacing(np.abs(labels).max().astype(np.float32)))
    allowed = PARITY_MAX_ABS * max(1.0, unit) + steps
    figures = {"head_parity_max_abs": _parity(scores, session, head.texts, vectors.shape[2], allowed)}
    return PackedHead(graph, activation, session, calibration, unit, figures)


def unit_of(task: Task, labels: NDArray[np.float64]) -> float:
    """Give the range of a regression's labels as a multiple of STS-B's; 1 for a classifier, or where all are alike."""
    return 1.0 if task.labels else float(np.ptp(labels)) / TOLERANCES_RANGE or 1.0


def _parity(scores: Scores, session: HeadSession, texts: int, width: int, allowed: float) -> float:
    """Hold a head's graph against PyTorch on random unit vectors: the largest difference, or ParityError."""
    vectors = np.random.default_rng(0).standard_normal((8, texts, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    report = compare(session.run(vectors), scores(torch.from_numpy(vectors)).numpy())
    say(f"head against PyTorch: {report.require(max_abs=allowed)}")
    return report.max_abs
