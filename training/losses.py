"""What training minimises, each with its source: of sentence vectors first, then of a task's logits."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def cosine_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """One minus the mean cosine between student and teacher (Wu et al. 2020, equation 4).

    Args:
        vectors: The student's, (rows, width).
        targets: The teacher's, (rows, width).
    """
    return 1 - nn.functional.cosine_similarity(vectors, targets, dim=1).mean()


def squared_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the squared distance between student and teacher, both of unit length.

    On unit vectors it is twice the cosine loss, so its gradient differs only in size; Reimers and Gurevych 2020 (arXiv
    2004.09813, equation 1) distil sentence vectors with it.

    Args:
        vectors: The student's, (rows, width), of unit length.
        targets: The teacher's, (rows, width).
    """
    return (vectors - nn.functional.normalize(targets, dim=1)).square().sum(dim=1).mean()


def similarity_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of the pairwise cosines within the batch: the structure, whatever the axes.

    Similarity-preserving distillation (Tung and Mori 2019, arXiv 1907.09682), with the diagonal, which is always right,
    left out. Zero for a batch of one row.

    Args:
        vectors: The student's, (rows, width).
        targets: The teacher's, (rows, width).
    """
    if len(vectors) < 2:
        return vectors.sum() * 0
    vectors, targets = nn.functional.normalize(vectors, dim=1), nn.functional.normalize(targets, dim=1)
    off_diagonal = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return (vectors @ vectors.t() - targets @ targets.t())[off_diagonal].square().mean()


LOSSES: Mapping[str, Loss] = {"cosine": cosine_loss, "squared": squared_loss, "similarity": similarity_loss}


def mixture(weights: Mapping[str, float]) -> Loss:
    """Give the weighted sum of some of LOSSES; those of weight 0 are not computed."""
    parts = [(LOSSES[name], weight) for name, weight in weights.items() if weight]

    def loss(vectors: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([weight * part(vectors, targets) for part, weight in parts]).sum()

    return loss


def label_loss(logits: Tensor, labels: Tensor, *, classes: bool) -> Tensor:
    """Mean over rows of cross-entropy for classes, of squared error for values; rows without a label add nothing.

    Args:
        logits: (rows, outputs).
        labels: Label numbers or values, float (rows); NaN where there is none.
        classes: Whether they are label numbers.
    """
    known = ~labels.isnan()
    if classes:
        total = nn.functional.cross_entropy(logits[known], labels[known].long(), reduction="sum")
    else:
        total = (logits[known, 0] - labels[known]).square().sum()
    return total / len(labels)


def logits_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the squared distance between student's and teacher's logits, or values.

    Tang et al. 2019 (arXiv 1903.12136, section 3.2).

    Args:
        logits: The student's, (rows, outputs).
        targets: The teacher's, (rows, outputs).
    """
    return (logits - targets).square().sum(dim=1).mean()


def softened_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over rows of the KL divergence from the teacher's softened answer to the student's.

    Hinton et al. 2015 (arXiv 1503.02531, section 2).

    Args:
        logits: The student's, (rows, outputs).
        targets: The teacher's, (rows, outputs).
        temperature: Divides both before the softmax.
    """
    answer = nn.functional.log_softmax(logits / temperature, dim=1)
    expected = nn.functional.log_softmax(targets / temperature, dim=1)
    divergence = nn.functional.kl_div(answer, expected, reduction="batchmean", log_target=True)
    return temperature**2 * divergence  # T² restores the gradient scale that softening took


def soft_loss(kind: str, temperature: float) -> Loss:
    """Give the loss of soft targets: `logits` or `temperature`."""
    return logits_loss if kind == "logits" else partial(softened_loss, temperature=temperature)
