"""How close the student is to its teacher."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def cosines(student: Vectors, teacher: Vectors) -> NDArray[np.float64]:
    """Cosine of each row with its counterpart: (rows, dimensions) twice -> (rows,), from -1 to 1."""
    norms = np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
    return np.einsum("rd,rd->r", student, teacher, dtype=np.float64) / norms
