"""May a classifier's scores be read as probabilities? Their error, and the one temperature that mends most of it.

Both are of Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from app.bundle import Calibration
from app.session import Vectors
from export.parity import say
from training.task import Scores

BINS = 15
ROWS_TO_FIT = 100  # with fewer, a temperature says more of the draw than of the model
TEMPERATURES = (0.1, 10.0)
DECIMALS = 4


def calibrate(logits: Vectors, truth: Scores) -> Calibration | None:
    """Fit a temperature on labelled rows, and measure what it mends: on each half of them by what the other half gives.

    Where that is nothing, the temperature stays at 1.

    Args:
        logits: (rows, labels).
        truth: (rows), label numbers.

    Returns:
        None where the rows are fewer than ROWS_TO_FIT, or all are answered rightly: no temperature is then too low.
    """
    if len(truth) < ROWS_TO_FIT or bool((logits.argmax(axis=1) == truth).all()):
        say(f"no temperature: it takes {ROWS_TO_FIT} dev rows, one of them answered wrongly")
        return None
    first = np.random.default_rng(0).permutation(len(truth)) % 2 == 0
    others = np.where(first, temperature_of(logits[~first], truth[~first]), temperature_of(logits[first], truth[first]))
    before = expected_calibration_error(softmax(logits, axis=1), truth)
    after = expected_calibration_error(softmax(logits / others[:, None], axis=1), truth)
    temperature = temperature_of(logits, truth) if after < before else 1.0
    say(
        f"temperature {temperature} from {len(truth):,} dev rows; expected calibration error {before:.4f} without, "
        f"{after:.4f} with what the other half of them gives"
    )
    return Calibration(temperature=temperature, ece_before=before, ece_after=min(before, after), rows=len(truth))


def expected_calibration_error(scores: NDArray[np.floating], truth: Scores) -> float:
    """Give the mean distance of confidence from accuracy, over BINS bins of equal width, weighted by their rows.

    Confidence is a row's highest score, and bin m holds those above (m - 1) / BINS up to m / BINS (equation 3).

    Args:
        scores: (rows, labels), each row's sum 1.
        truth: (rows), label numbers.
    """
    confidence = scores.max(axis=1).astype(np.float64)
    right = scores.argmax(axis=1) == truth
    gaps = np.bincount(np.ceil(confidence * BINS).astype(int), weights=right - confidence)  # summed over a bin's rows
    return float(np.abs(gaps).sum() / len(truth))


def temperature_of(logits: Vectors, truth: Scores) -> float:
    """Give the temperature at which softmax(logits / temperature) makes labels likeliest (section 4.2)."""
    exact, labels = logits.astype(np.float64), truth.astype(int)

    def loss(log_temperature: float) -> float:
        likelihoods = log_softmax(exact / np.exp(log_temperature), axis=1)
        return float(-likelihoods[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return round(float(np.exp(found.x)), DECIMALS)
