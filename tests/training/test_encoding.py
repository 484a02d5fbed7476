import numpy as np
import pytest
import torch
from torch import nn

from training.encoding import batches_of_one_length, encode


class Sums(nn.Module):
    """Answers (sum of ids, tokens) and refuses nothing, so that order and grouping can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int]] = []

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
        return torch.stack([input_ids.sum(dim=1), torch.full((len(input_ids),), input_ids.shape[1])], dim=1).float()


def test_answers_come_in_the_order_given_and_no_row_is_padded():
    encoder = Sums()
    rows = [[5], [1, 2, 3], [7], [4, 4, 4], [1, 1]]
    assert encode(encoder, rows).tolist() == [[5, 1], [6, 3], [7, 1], [12, 3], [2, 2]]
    assert encoder.shapes == [(2, 1), (1, 2), (2, 3)]


def test_a_batch_holds_at_most_its_tokens_but_at_least_a_row():
    batches = list(batches_of_one_length(np.asarray([2, 2, 2, 9]), batch_tokens=4))
    assert [batch.tolist() for batch in batches] == [[0, 1], [2], [3]]


def test_nothing_to_encode_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        encode(Sums(), [])
