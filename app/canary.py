"""Does a bundle still answer as it did when it was made? A damaged file or other kernels show here, before traffic."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.bundle import Bundle, BundleError, Texts

Floats = NDArray[np.float32]


class CanaryError(BundleError):
    """A bundle that does not answer as it did when it was made."""


def check_canary(bundle: Bundle, answer: Callable[[Texts], Floats]) -> float:
    """Answer each canary alone and compare with what the bundle recorded.

    Args:
        bundle: The bundle that is being loaded.
        answer: One text or pair -> float32 (dimensions,) or (labels,).

    Returns:
        The worst difference: 1 - cosine for an encoder's vectors, absolute for a task's scores.

    Raises:
        CanaryError: an answer has another size, differs more than the manifest tolerates, or cannot be given.
        BundleError: the canary is empty or cannot be read.
    """
    kind: Literal["vectors", "scores"] = "vectors" if bundle.manifest.kind == "encoder" else "scores"
    canary = bundle.canary()
    if not canary.inputs or len(canary.inputs) != len(canary.outputs):
        raise BundleError(
            f"{bundle.folder} proves nothing: its canary has {len(canary.inputs)} inputs "
            f"and {len(canary.outputs)} outputs"
        )
    differences = [
        _difference(bundle, kind, _answer(bundle, answer, texts), np.asarray(recorded, dtype=np.float32))
        for texts, recorded in zip(canary.inputs, canary.outputs, strict=True)
    ]
    at = int(np.argmax(differences))  # NaN counts as the largest
    worst, tolerated = differences[at], bundle.manifest.canary_tolerance
    if not worst <= tolerated:
        raise CanaryError(
            f"{bundle.folder} does not answer as it did when it was made: the {kind} of canary {at} differ by "
            f"{worst:.2g}, the manifest tolerates {tolerated:.2g}"
        )
    return worst


def _answer(bundle: Bundle, answer: Callable[[Texts], Floats], texts: Texts) -> Floats:
    try:
        return answer(texts)
    except Exception as error:  # whatever the runtime raises: the bundle cannot be served
        raise CanaryError(f"{bundle.folder} fails on its canary: {error}") from error


def _difference(bundle: Bundle, kind: str, found: Floats, recorded: Floats) -> float:
    if found.shape != recorded.shape:
        raise CanaryError(f"{bundle.folder} answers its canary with {found.shape} numbers, not {recorded.shape}")
    if kind == "scores":
        return float(np.abs(found - recorded).max())
    return 1 - float(found @ recorded / (np.linalg.norm(found) * np.linalg.norm(recorded)))
