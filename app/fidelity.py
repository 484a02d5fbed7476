"""How close the student is to its teacher."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def cosines(student: Vectors, teacher: Vectors) -> NDArray[np.float64]:
    """Cosine of each row with its counterpart: (rows, dimensions) twice -> (rows,), from -1 to 1."""
    ours, theirs = student.astype(np.float64), teacher.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    found: NDArray[np.float64] = (ours * theirs).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return found


def rank_agreement(student: Vectors, teacher: Vectors) -> float | None:
    """Does the student rank pairs of texts as the teacher does?

    Args:
        student: Unit vectors, (rows, dimensions).
        teacher: The same texts' vectors, (rows, other dimensions).

    Returns:
        Spearman's correlation of both models' similarities over all pairs of rows, from -1 to 1; None where it is not
        defined, because a model finds all pairs equally alike or there are not two of them.
    """
    pairs = np.triu_indices(len(student), 1)
    ranks = [_ranks((vectors @ vectors.T)[pairs]) for vectors in (student, teacher)]
    spreads = [float(np.linalg.norm(each - each.mean())) if len(each) else 0.0 for each in ranks]
    if not all(spreads):
        return None
    ours, theirs = (each - each.mean() for each in ranks)
    return float(ours @ theirs / (spreads[0] * spreads[1]))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rank values from 1; equal ones share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
