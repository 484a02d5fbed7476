import numpy as np
import pytest
import torch

from export.graph import Scores, head_graph
from export.packed_head import PackedHead, pack_head, unit_of
from export.parity import PARITY_MAX_ABS
from training.head import Head, fit_head
from training.task import Task

ROWS, WIDTH = 400, 12
MOOD = Task("mood", 1, ("bad", "mixed", "good"), ("accuracy",))


@pytest.fixture
def head() -> Head:
    """A head that is far too sure of itself."""
    torch.manual_seed(0)
    head = Head(1, WIDTH, len(MOOD.labels))
    with torch.no_grad():
        head.output.weight.mul_(60)
    return head


@pytest.fixture
def vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((ROWS, 1, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def labelled(head: Head, vectors: np.ndarray) -> np.ndarray:
    """Draw labels as likely as a head would have them that is a quarter as sure."""
    rng = np.random.default_rng(1)
    with torch.inference_mode():
        shares = torch.softmax(head(torch.from_numpy(vectors)).double() / 4, dim=1).numpy()
    return np.asarray([rng.choice(len(row), p=row) for row in shares], dtype=np.float64)


def packed(head: Head, vectors: np.ndarray) -> PackedHead:
    return pack_head(head, MOOD, vectors, labelled(head, vectors))


def test_the_temperature_is_inside_the_graph(head: Head, vectors: np.ndarray):
    found = packed(head, vectors)
    assert found.calibration.temperature == pytest.approx(4, rel=0.2)
    assert found.calibration.ece_after < found.calibration.ece_before
    with torch.inference_mode():
        expected = torch.softmax(head(torch.from_numpy(vectors)) / found.calibration.temperature, dim=1)
    assert np.allclose(found.session.run(vectors), expected, atol=1e-6)
    assert found.figures["head_parity_max_abs"] < 1e-5


def test_no_label_changes_by_it(head: Head, vectors: np.ndarray):
    found = packed(head, vectors)
    with torch.inference_mode():
        uncalibrated = Scores(head, "softmax")(torch.from_numpy(vectors)).numpy()
    answers = found.session.run(vectors)
    assert np.abs(answers - uncalibrated).max() > 0.1
    assert (answers.argmax(axis=1) == uncalibrated.argmax(axis=1)).all()


def test_a_regression_has_nothing_to_calibrate(vectors: np.ndarray):
    head = Head(1, WIDTH, 1)
    found = pack_head(head, Task("stars", 1, (), ("spearman",)), vectors, np.arange(float(ROWS)))
    assert (found.calibration, found.activation) == (None, "none")
    assert found.graph == head_graph(Scores(head, "none"), 1, WIDTH)


def test_the_unit_of_values_is_their_range_beside_sts_bs():
    stars = Task("stars", 1, (), ("spearman",))
    for labels, unit in (([0, 5], 1), ([1990, 2020], 6), ([0, 0.5], 0.1), ([3, 3], 1)):
        assert unit_of(stars, np.asarray(labels, np.float64)) == pytest.approx(unit)
    assert unit_of(MOOD, np.asarray([0.0, 2.0])) == 1


def test_a_head_of_large_values_differs_by_their_rounding_and_is_packed():
    torch.manual_seed(0)
    head, labels = Head(2, 384, 1), np.asarray([0.0, 1e6])
    head.scale_to(labels)
    found = pack_head(head, Task("price", 2, (), ("spearman",)), np.zeros((2, 2, 384), np.float32), labels)
    assert found.figures["head_parity_max_abs"] <= PARITY_MAX_ABS * found.unit


def test_the_scale_of_a_regression_is_folded_into_its_layer(vectors: np.ndarray):
    head = Head(1, WIDTH, 1)
    head.scale_to(np.asarray([0.0, 10.0]))
    found = pack_head(head, Task("stars", 1, (), ("spearman",)), vectors, np.arange(float(ROWS)))
    with torch.inference_mode():
        assert np.allclose(found.session.run(vectors), head(torch.from_numpy(vectors)), atol=1e-5)
    assert found.graph == head_graph(Scores(head.folded(), "none"), 1, WIDTH)


@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize(("mean", "spread"), [(20_000, 13), (1e6, 1000)])
def test_values_far_from_zero_may_differ_by_what_float32_rounds(texts: int, mean: float, spread: float):
    rng, wide = np.random.default_rng(0), 384
    vectors = rng.standard_normal((300, texts, wide)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    values, task = mean + spread * rng.random(300), Task("values", texts, (), ("spearman",))
    head = Head(texts, wide, 1)
    fit_head(head, vectors, values, task)
    found = pack_head(head, task, vectors, values)
    assert found.figures["head_parity_max_abs"] < 0.001 * spread
