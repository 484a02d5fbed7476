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
