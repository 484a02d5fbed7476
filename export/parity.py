"""Proofs that return numbers: how far a graph is from what it was made of."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.bundle import Texts
from app.fidelity import cosines
from app.session import EncoderSession, Vectors
from app.tokenizer import Tokenizer

ROWS = 32
PARITY_MAX_ABS = 1e-4

SENTENCES = tuple((Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").strip("\n").split("\n"))
# A paragraph of everything, so that proofs reach the longest row that a bundle takes.
PASSAGES = (" ".join(SENTENCES[:8]), " ".join(SENTENCES))


class ParityError(RuntimeError):
    """A step of the export lost more than it may; the message says what was measured and what is allowed."""


@dataclass(frozen=True)
class Report:
    """Differences between two answers to the same inputs.

    Attributes:
        max_abs: Largest absolute difference of any number.
        mean_cosine: Over rows.
        min_cosine: Over rows.
    """

    max_abs: float
    mean_cosine: float
    min_cosine: float

    def require(self, *, max_abs: float = float("inf"), min_cosine: float = -1.0) -> "Report":
        """Give the report back, or raise ParityError where it exceeds what is allowed."""
        if not self.max_abs <= max_abs:
            raise ParityError(f"largest difference {self.max_abs:.2e}, allowed {max_abs:.0e}")
        if not self.min_cosine >= min_cosine:
            raise ParityError(f"smallest cosine {self.min_cosine:.4f}, allowed {min_cosine}")
        return self

    def __str__(self) -> str:
        return f"max abs {self.max_abs:.1e}, cosine mean {self.mean_cosine:.5f}, min {self.min_cosine:.5f}"


def compare(answer: Vectors, expected: Vectors) -> Report:
    """Compare two float arrays of (rows, numbers)."""
    found = cosines(answer, expected)
    return Report(float(np.abs(answer - expected).max()), float(found.mean()), float(found.min()))


def say(line: str) -> None:
    """Print one line of the export's report at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def served(tokenizer: Tokenizer, session: EncoderSession) -> Callable[[Sequence[str | Texts]], Vectors]:
    """Give an encoder of texts, or joined pairs, from the very parts that serve: float32 (texts, dimensions)."""

    def encode(texts: Sequence[str | Texts]) -> Vectors:
        inputs = [(text,) if isinstance(text, str) else text for text in texts]
        rows = [row.ids for row in tokenizer.rows(inputs)]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        answers: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(rows)
        for low in range(0, len(order), ROWS):
            chosen = order[low : low + ROWS]
            for index, vector in zip(chosen, session.run([rows[index] for index in chosen]), strict=True):
                answers[index] = vector
        return np.stack(answers)

    return encode
