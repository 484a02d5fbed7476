import numpy as np
import pytest

from app.fidelity import cosines


def test_cosine_of_each_row_with_its_counterpart() -> None:
    student = np.array([[1, 0], [3, 4], [0, 2], [0, 0]], dtype=np.float32)
    teacher = np.array([[2, 0], [4, -3], [0, -1], [1, 1]], dtype=np.float32)
    assert cosines(student, teacher).tolist() == pytest.approx([1, 0, -1, 0])
