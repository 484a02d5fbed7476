"""What a task adds to an encoder: the vectors of one or two texts to logits."""

from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["softmax", "sigmoid", "none"]


class Head(nn.Module):
    """A linear layer over the features of one text or of a pair encoded apart.

    `forward` takes float32 (rows, texts, width) and gives logits (rows, outputs).
    """

    def __init__(self, texts: int, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.texts = texts
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width if texts == 1 else 4 * width, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Give logits."""
        logits: Tensor = self.output(self.dropout(features(vectors)))
        return logits


def features(vectors: Tensor) -> Tensor:
    """Give the vector itself for one text, [u; v; |u-v|; u*v] for a pair (Wu et al. 2020, section 3.2).

    Args:
        vectors: (rows, texts, width), with one or two texts.
    """
    if vectors.shape[1] == 1:
        return vectors[:, 0]
    first, second = vectors.unbind(dim=1)
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)
