"""What is minimised, each with its source."""

from torch import Tensor, nn


def cosine_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """One minus the mean cosine between student and teacher (Wu et al. 2020, equation 4).

    Args:
        vectors: (rows, width).
        targets: (rows, width).
    """
    return 1 - nn.functional.cosine_similarity(vectors, targets, dim=1).mean()
