"""Where a task's bundle is weaker: its deciding metric on parts of the dev rows, and on all of them typed in haste."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import ConstantInputWarning

from app.bundle import Part, Slices, Texts
from app.session import Vectors
from export.parity import say
from training.task import Examples, Scores, Task

ROWS_TO_SCORE = 30
LONGEST = 5  # one row in so many is long
TYPO_EVERY = 8  # words
PUNCTUATION = '.,;:!?"`()[]-\u2013\u2014\u2026'  # dashes and the ellipsis of print as well
# A row is of a slice if any of its texts matches.
PATTERNS = {
    "negation": r"\b(?:no|not|nor|none|never|nothing|nobody|nowhere|neither|cannot|without)\b|n['\u2019]t\b",
    "numbers": r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|thousand|million|billion)\b",
    "questions": r"\?",
}


def score_slices(task: Task, dev: Examples, tokens: Sequence[int], answers: Vectors, noisy: Vectors) -> Slices:
    """Score each slice that has ROWS_TO_SCORE rows and on which the metric is defined.

    Args:
        task: Its first metric decides.
        dev: Labelled rows.
        tokens: Of each row.
        answers: To each row: (rows, outputs).
        noisy: To each row as `noisy_rows` writes it.
    """
    rows = {
        name: np.flatnonzero([any(re.search(pattern, text, re.IGNORECASE) for text in texts) for texts in dev.texts])
        for name, pattern in PATTERNS.items()
    }
    rows["long texts"] = np.argsort(-np.asarray(tokens), kind="stable")[: len(dev) // LONGEST]
    found = {"all rows": (dev.labels, answers)}
    found |= {name: (dev.labels[some], answers[some]) for name, some in rows.items()}
    found["noisy text"] = (dev.labels, noisy)
    scores = {name: _score(task, *part) for name, part in found.items() if len(part[0]) >= ROWS_TO_SCORE}
    parts = {name: Part(rows=len(found[name][0]), score=score) for name, score in scores.items() if score is not None}
    for name, part in parts.items():
        say(f"  {task.metrics[0]} on {name}: {part.score:.4f} ({part.rows:,} rows)")
    return Slices(metric=task.metrics[0], parts=parts)


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


def _score(task: Task, truth: Scores, answers: Vectors) -> float | None:
    """Give the deciding metric; none where it is not defined: all but accuracy want labels or values that differ."""
    metric = task.metrics[0]
    if metric != "accuracy" and len(np.unique(truth)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # no correlation with a constant; it is then NaN
        score = replace(task, metrics=(metric,)).score(truth, answers)[metric]
    return score if np.isfinite(score) else None
