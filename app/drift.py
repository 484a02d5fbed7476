"""Does traffic still look like what a bundle was made for? It takes no labels: rows are held against a baseline."""

import operator
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle import Baseline, Manifest
from app.fidelity import cosines

WINDOW_SECONDS = 300.0
# Counting rows costs microseconds each, on the event loop; so many between two looks show as much as all of them.
ROWS_AT_ONCE = 256
LENGTH_BOUNDS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)

Ids = Sequence[int]
Floats = NDArray[np.float32]
Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """What some rows were like, as sums, so that tallies can be added and taken away again.

    Attributes:
        rows: How many.
        tokens: In all of them.
        unknown: Those of the tokens that the vocabulary lacks.
        lengths: Rows in each class of lengths: (classes,).
        vectors: Sum of the vectors: (dimensions,).
        labels: How often each label was the answer: (labels,).
    """

    rows: int
    tokens: int
    unknown: int
    lengths: Counts
    vectors: Counts
    labels: Counts

    def __add__(self, other: "Tally") -> "Tally":
        return self._combined(other, operator.add)

    def __sub__(self, other: "Tally") -> "Tally":
        return self._combined(other, operator.sub)

    def _combined(self, other: "Tally", operation: Callable[[Any, Any], Any]) -> "Tally":
        return Tally(*(operation(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))


@dataclass(frozen=True)
class RowCounter:
    """How rows are counted: which token stands for unknown words, the classes of lengths, the number of labels."""

    unknown: int | None
    dimensions: int
    labels: int = 0
    length_bounds: tuple[int, ...] = LENGTH_BOUNDS

    def count(self, rows: Sequence[Ids], vectors: Floats, scores: Floats | None = None) -> Tally:
        """Count rows of token ids, their vectors (rows, dimensions), and a classifier's scores (inputs, labels)."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))  # (rows,)
        classes = np.searchsorted(self.length_bounds, lengths)  # a bound belongs to the class below it
        winners = np.empty(0, dtype=np.int64) if scores is None or not self.labels else scores.argmax(axis=1)
        return Tally(
            rows=len(rows),
            tokens=int(lengths.sum()),
            unknown=0 if self.unknown is None else sum(row.count(self.unknown) for row in rows),
            lengths=np.bincount(classes, minlength=len(self.length_bounds) + 1).astype(np.float64),
            vectors=vectors.sum(axis=0, dtype=np.float64),
            labels=np.bincount(winners, minlength=self.labels).astype(np.float64),
        )

    def nothing(self) -> Tally:
        """Count no rows."""
        return self.count([], np.zeros((0, self.dimensions), dtype=np.float32))


def baseline_of(tally: Tally, labels: Sequence[str] = (), length_bounds: tuple[int, ...] = LENGTH_BOUNDS) -> Baseline:
    """Make the baseline that a manifest carries; the tally has at least one row."""
    return Baseline(
        rows=tally.rows,
        unknown_ratio=round(tally.unknown / tally.tokens, 6),
        mean_tokens=round(tally.tokens / tally.rows, 3),
        length_bounds=length_bounds,
        length_shares=_rounded(_shares(tally.lengths)),
        mean_vector=_rounded(tally.vectors / tally.rows),
        label_shares=dict(zip(labels, _rounded(_shares(tally.labels)), strict=True)),
    )


def measure_drift(tally: Tally, baseline: Baseline) -> dict[str, float]:
    """Hold rows against a baseline.

    Returns:
        `rows`, `unknown_ratio` and `mean_tokens` of the traffic; `length_distance` and, for a classifier,
        `prior_distance`: the share of rows that would have to change their class of lengths, or their label, for both
        to agree (total variation, from 0 to 1); `vector_distance`: 1 - cosine of the two mean vectors, from 0 to 2.
        Without rows, all are 0.
    """
    labelled = {"prior_distance": 0.0} if baseline.label_shares else {}
    if not tally.rows:
        names = ("rows", "unknown_ratio", "mean_tokens", "length_distance", "vector_distance")
        return dict.fromkeys(names, 0.0) | labelled
    if labelled:
        labelled["prior_distance"] = _distance(tally.labels, tuple(baseline.label_shares.values()))
    means = tally.vectors[None].astype(np.float32), np.asarray([baseline.mean_vector], dtype=np.float32)
    return {
        "rows": float(tally.rows),
        "unknown_ratio": tally.unknown / tally.tokens,
        "mean_tokens": tally.tokens / tally.rows,
        "length_distance": _distance(tally.lengths, baseline.length_shares),
        "vector_distance": 1 - float(cosines(*means)[0]),
        **labelled,
    }


@dataclass
class Drift:
    """The rows of the last minutes that a bundle answered, and how far they are from its baseline.

    `observe` costs a request next to nothing; `look`, every second or so, does the counting. Both belong to one thread.
    """

    baseline: Baseline
    counter: RowCounter
    _fresh: list[tuple[Sequence[Ids], Floats, Floats | None]] = field(default_factory=list, init=False)
    _room: int = field(default=ROWS_AT_ONCE, init=False)
    _tallies: deque[tuple[float, Tally]] = field(default_factory=deque, init=False)
    _total: Tally = field(init=False)

    def __post_init__(self) -> None:
        """The window is empty."""
        self._total = self.counter.nothing()

    def observe(self, rows: Sequence[Ids], vectors: Floats, scores: Floats | None = None) -> None:
        """Keep what a request brought, unless enough has come since the last look."""
        if self._room > 0:
            self._room -= len(rows)
            self._fresh.append((rows, vectors, scores))

    def look(self, now: float | None = None) -> dict[str, float]:
        """Count what is new, forget what is too old, and measure; `now` is in seconds on the monotonic clock."""
        now = monotonic() if now is None else now
        if self._fresh:
            rows, vectors, scores = zip(*self._fresh, strict=True)
            scored = np.concatenate(scores) if scores[0] is not None else None
            tally = self.counter.count(list(chain(*rows)), np.concatenate(vectors), scored)
            self._tallies.append((now, tally))
            self._total += tally
            self._fresh, self._room = [], ROWS_AT_ONCE
        while self._tallies and self._tallies[0][0] <= now - WINDOW_SECONDS:
            self._total -= self._tallies.popleft()[1]
        return measure_drift(self._total, self.baseline)


def watch_drift(manifest: Manifest, unknown: int | None) -> Drift | None:
    """Watch a bundle's traffic, if its manifest carries a baseline; `unknown` is its tokenizer's id for such words."""
    baseline = manifest.baseline
    if baseline is None:
        return None
    return Drift(baseline, RowCounter(unknown, manifest.dimensions, len(manifest.labels), baseline.length_bounds))


def _shares(counts: Counts) -> Counts:
    shares: Counts = counts / max(1.0, counts.sum())
    return shares


def _distance(counts: Counts, shares: Sequence[float]) -> float:
    return float(np.abs(_shares(counts) - np.asarray(shares)).sum() / 2)


def _rounded(numbers: Counts) -> tuple[float, ...]:
    return tuple(round(float(number), 6) for number in numbers)
