import pytest
import torch

from training.losses import cosine_loss


def test_cosine_loss_is_zero_along_the_target_one_across_and_two_against():
    target = torch.tensor([[0.0, 2.0]])
    for vector, loss in (([0.0, 5.0], 0), ([1.0, 0.0], 1), ([0.0, -1.0], 2)):
        assert cosine_loss(torch.tensor([vector]), target).item() == pytest.approx(loss)


def test_cosine_loss_is_the_mean_over_rows():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert cosine_loss(vectors, torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(0.5)
