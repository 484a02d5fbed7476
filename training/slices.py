"""Where a model is weaker: a task's deciding metric on parts of its rows, and on all of them typed in haste."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning

from training.task import Examples, Scores, Task

ROWS_TO_SCORE = 30
LONGEST = 5  # one row in so many is long
TYPO_EVERY = 8  # words
PUNCTUATION = '.,;:!?"`()[]-\u2013\u2014\u2026'  # dashes and the ellipsis of print as well
ALL, LONG, NOISY = "all rows", "long texts", "noisy text"
# A row is of a slice if any of its texts matches.
PATTERNS = {
    "negation": r"\b(?:no|not|nor|none|never|nothing|nobody|nowhere|neither|cannot|without)\b|n['\u2019]t\b",
    "numbers": r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|thousand|million|billion)\b",
    "questions": r"\?",
}

Texts = tuple[str, ...]
Rows = NDArray[np.int64]


class Slice(NamedTuple):
    """How many rows it has, and what the deciding metric is on them; none where it is not defined."""

    rows: int
    score: float | None


def score_slices(
    task: Task, dev: Examples, tokens: Sequence[int], answers: NDArray[np.float32], noisy: NDArray[np.float32]
) -> dict[str, Slice]:
    """Score each slice, and all rows as noisy text.

    Args:
        task: Its first metric decides.
        dev: Labelled rows.
        tokens: Of each row.
        answers: To each row: (rows, outputs).
        noisy: To each row as `noisy_rows` writes it.
    """
    slices = find_slices(dev.texts, tokens)
    found = {name: Slice(len(rows), _score(task, dev.labels[rows], answers[rows])) for name, rows in slices.items()}
    return found | {NOISY: Slice(len(dev), _score(task, dev.labels, noisy))}


def find_slices(rows: Sequence[Texts], tokens: Sequence[int]) -> dict[str, Rows]:
    """Find all rows, and those of each slice that has ROWS_TO_SCORE of them.

    Args:
        rows: Each one text or a pair.
        tokens: Of each row.

    Returns:
        Numbers of rows, int64, by the slice's name.
    """
    found = {
        name: np.flatnonzero([any(re.search(pattern, text, re.IGNORECASE) for text in texts) for texts in rows])
        for name, pattern in PATTERNS.items()
    }
    found[LONG] = np.argsort(-np.asarray(tokens), kind="stable")[: len(rows) // LONGEST]
    return {ALL: np.arange(len(rows))} | {name: some for name, some in found.items() if len(some) >= ROWS_TO_SCORE}


def noisy_rows(rows: Sequence[Texts]) -> list[Texts]:
    """Write rows as people type them in haste, the same way each time.

    Lower case, no punctuation around words, and in every eighth word two neighbouring letters swapped.
    """
    rng = np.random.default_rng(0)
    return [tuple(_noisy(text, rng) for text in texts) for texts in rows]


def _noisy(text: str, rng: np.random.Generator) -> str:
    words = [word for spelt in text.lower().split() if (word := spelt.strip(PUNCTUATION))]
    for place in range(int(rng.integers(TYPO_EVERY)), len(words), TYPO_EVERY):
        words[place] = _misspelt(words[place], rng)
    return " ".join(words)


def _misspelt(word: str, rng: np.random.Generator) -> str:
    if len(word) < 2:
        return word
    place = int(rng.integers(len(word) - 1))
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _score(task: Task, truth: Scores, answers: NDArray[np.float32]) -> float | None:
    """Give the deciding metric; none where it is not defined: all but accuracy want labels or values that differ."""
    metric = task.metrics[0]
    if metric != "accuracy" and len(np.unique(truth)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # no correlation with a constant; it is then NaN
        score = replace(task, metrics=(metric,)).score(truth, answers)[metric]
    return score if np.isfinite(score) else None
