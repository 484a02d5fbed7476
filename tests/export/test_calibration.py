import numpy as np
import pytest
from scipy.special import softmax

from export.calibration import ROWS_TO_FIT, TEMPERATURES, calibrate, expected_calibration_error, temperature_of


def toy(rows: int, temperature: float, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels from softmax(logits), and give the logits times a temperature: as sure as that is too much."""
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2, size=(rows, labels))
    truth = [rng.choice(labels, p=shares) for shares in softmax(logits, axis=1)]
    return (logits * temperature).astype(np.float32), np.asarray(truth, dtype=np.float64)


def test_the_error_is_the_gap_of_each_bin_weighted_by_its_rows():
    scores = np.asarray([[0.9, 0.1], [0.92, 0.08], [0.41, 0.59], [0.3, 0.7]])
    truth = np.asarray([0.0, 1.0, 1.0, 1.0])
    # 0.9 and 0.92 share the bin up to 14/15, and one is right; 0.59 and 0.7 are right, each in a bin of its own
    expected = (2 * abs(0.5 - 0.91) + (1 - 0.59) + (1 - 0.7)) / 4
    assert expected_calibration_error(scores, truth) == pytest.approx(expected)


def test_gaps_of_one_bin_make_up_for_each_other_and_those_of_two_do_not():
    truth = np.asarray([0.0, 1.0])
    assert expected_calibration_error(np.asarray([[0.5, 0.5], [0.5, 0.5]]), truth) == pytest.approx(0)
    assert expected_calibration_error(np.asarray([[1.0, 0.0], [0.4, 0.6]]), truth) == pytest.approx(0.4 / 2)
    assert expected_calibration_error(np.asarray([[1.0, 0.0], [1.0, 0.0]]), truth) == pytest.approx(0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_scores_is_found(temperature: float):
    assert temperature_of(*toy(20_000, temperature)) == pytest.approx(temperature, rel=0.03)


def test_scores_that_are_too_sure_are_mended_on_rows_that_the_temperature_has_not_seen():
    logits, truth = toy(4000, 3.0)
    found = calibrate(logits, truth)
    assert found is not None
    assert (found.temperature, found.rows) == (pytest.approx(3.0, rel=0.1), 4000)
    assert found.ece_before == pytest.approx(expected_calibration_error(softmax(logits, axis=1), truth))
    assert found.ece_after < 0.03 < 0.15 < found.ece_before


def test_each_half_is_scored_by_the_temperature_of_the_other():
    logits, truth = toy(200, 3.0)
    first = np.random.default_rng(0).permutation(200) % 2 == 0
    halves = [temperature_of(logits[part], truth[part]) for part in (first, ~first)]
    assert halves[0] != halves[1]
    scores = np.where(first[:, None], softmax(logits / halves[1], axis=1), softmax(logits / halves[0], axis=1))
    assert calibrate(logits, truth).ece_after == pytest.approx(expected_calibration_error(scores, truth))


def test_a_temperature_that_mends_nothing_is_not_taken():
    logits = np.zeros((200, 2), dtype=np.float32)
    logits[:, 0] = np.random.default_rng(0).normal(scale=9, size=200)
    truth = (logits[:, 0] < 0).astype(np.float64)
    truth[::10] = 1 - truth[::10]  # errors that confidence knows nothing of
    found = calibrate(logits, truth)
    assert temperature_of(logits, truth) > 2
    assert (found.temperature, found.ece_after) == (1, found.ece_before)


def test_few_rows_and_rows_without_a_fault_fit_no_temperature(capsys: pytest.CaptureFixture):
    logits, truth = toy(ROWS_TO_FIT - 1, 2.0)
    assert calibrate(logits, truth) is None
    logits, _ = toy(ROWS_TO_FIT, 2.0)
    assert calibrate(logits, logits.argmax(axis=1).astype(np.float64)) is None
    assert capsys.readouterr().out.count("no temperature") == 2


def test_a_temperature_keeps_within_bounds():
    logits = np.asarray([[3.0, 0.0]] * 10, dtype=np.float32)
    assert temperature_of(logits, np.zeros(10)) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert temperature_of(logits, np.asarray([0.0, 1.0] * 5)) == pytest.approx(TEMPERATURES[1], rel=0.01)
