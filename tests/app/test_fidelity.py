import numpy as np
import pytest
from scipy.stats import spearmanr

from app.fidelity import cosines, rank_agreement


def test_cosine_of_each_row_with_its_counterpart() -> None:
    student = np.array([[1, 0], [3, 4], [0, 2], [0, 0]], dtype=np.float32)
    teacher = np.array([[2, 0], [4, -3], [0, -1], [1, 1]], dtype=np.float32)
    assert cosines(student, teacher).tolist() == pytest.approx([1, 0, -1, 0])


def test_ranks_agree_whatever_the_scale_of_the_similarities() -> None:
    angles = np.array([0.0, 0.1, 0.5, 0.6])
    student = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    teacher = np.stack([np.cos(2 * angles), np.sin(2 * angles)], axis=1).astype(np.float32)
    assert rank_agreement(student, teacher) == pytest.approx(spearman(student, teacher))
    assert rank_agreement(student, student) == pytest.approx(1)


def test_equal_similarities_share_their_rank() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.integers(0, 2, (2, 12, 3)).astype(np.float32)
    assert rank_agreement(student, teacher) == pytest.approx(spearman(student, teacher))


def spearman(student: np.ndarray, teacher: np.ndarray) -> float:
    pairs = np.triu_indices(len(student), 1)
    return float(spearmanr((student @ student.T)[pairs], (teacher @ teacher.T)[pairs])[0])


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_where_ranks_are_not_defined_there_is_no_agreement(rows: int) -> None:
    alike = np.ones((rows, 3), dtype=np.float32)
    assert rank_agreement(alike, alike) is None
