"""A sentence-level task: what its rows look like, what its answers are called, and how they are scored."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Scores = NDArray[np.float64]
Metric = Callable[[Scores, Scores], float]


class TaskError(ValueError):
    """Task files that cannot be used; the message names the file, the row and what was expected."""


def _correlation(measure: Callable[[Scores, Scores], Sequence[float]]) -> Metric:
    return lambda truth, answer: float(measure(truth, answer)[0])


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "macro_f1": lambda truth, answer: float(f1_score(truth, answer, average="macro")),
    "matthews": matthews_corrcoef,
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        name: Lower case; the name of its bundle and route.
        texts: 1, or 2 for pairs.
        labels: A classifier's answers in the order of its scores; empty for a regression.
        metrics: Names in METRICS; the first decides.
        symmetric: Whether a pair means the same in either order. It says how a head is made, not what the rows are, and
            so is left out when tasks are compared.
    """

    name: str
    texts: int
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    symmetric: bool = field(default=False, compare=False)

    @property
    def outputs(self) -> int:
        """Numbers that a head gives per row."""
        return max(1, len(self.labels))

    def orders(self, texts: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Give a row's texts in every order in which they mean the same."""
        return (texts, texts[::-1]) if self.symmetric else (texts,)

    def score(self, truth: Scores, scores: NDArray[np.float32]) -> dict[str, float]:
        """Give the task's metrics, as fractions.

        Args:
            truth: (rows), label numbers or values.
            scores: (rows, outputs), logits or probabilities.
        """
        answer = scores.argmax(axis=1).astype(np.float64) if self.labels else scores[:, 0].astype(np.float64)
        return {name: float(METRICS[name](truth, answer)) for name in self.metrics}


def task_from(plain: Mapping[str, Any]) -> Task:
    """Give back the task that `dataclasses.asdict` and JSON made plain; earlier versions knew no symmetry."""
    names = (tuple(plain["labels"]), tuple(plain["metrics"]))
    return Task(plain["name"], plain["texts"], *names, symmetric=plain.get("symmetric", False))


@dataclass(frozen=True)
class Examples:
    """Labelled rows: `texts` holds one tuple per row, `labels` float64 (rows), label numbers or values."""

    texts: list[tuple[str, ...]]
    labels: Scores

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.texts)

    def part(self, rows: NDArray[np.int64]) -> "Examples":
        """Give some of the rows."""
        return Examples([self.texts[row] for row in rows], self.labels[rows])

    def plain(self) -> dict[str, Any]:
        """Give the rows as plain values, for JSON."""
        return {"texts": self.texts, "labels": self.labels.tolist()}


def identity(task: Task, train: Examples, dev: Examples) -> Iterator[Any]:
    """Give all that tells what a run learns and is scored on from what another does: labels, then every row."""
    yield [task.texts, task.labels, len(train), *(["symmetric"] if task.symmetric else [])]
    for part in (train, dev):
        yield from zip(part.texts, part.labels.tolist(), strict=True)


def examples_from(plain: Mapping[str, Any]) -> Examples:
    """Undo `Examples.plain`."""
    return Examples([tuple(texts) for texts in plain["texts"]], np.asarray(plain["labels"], dtype=np.float64))
