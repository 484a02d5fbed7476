import pytest
import torch
from torch import nn

from training.losses import LOSSES, cosine_loss, mixture, similarity_loss, squared_loss

STUDENT = nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
TEACHER = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def test_cosine_loss_is_zero_along_the_target_one_across_and_two_against():
    target = torch.tensor([[0.0, 2.0]])
    for vector, loss in (([0.0, 5.0], 0), ([1.0, 0.0], 1), ([0.0, -1.0], 2)):
        assert cosine_loss(torch.tensor([vector]), target).item() == pytest.approx(loss)


def test_squared_loss_is_twice_the_cosine_loss_on_unit_vectors():
    assert squared_loss(STUDENT, TEACHER).item() == pytest.approx(2 * cosine_loss(STUDENT, TEACHER).item(), abs=1e-6)


def test_similarity_loss_does_not_mind_a_rotation_but_minds_a_swap():
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))
    assert similarity_loss(TEACHER @ turn, TEACHER).item() == pytest.approx(0, abs=1e-10)
    assert similarity_loss(TEACHER[[1, 0, 2, 3, 4, 5]], TEACHER).item() > 0.01


def test_similarity_loss_is_the_mean_over_pairs():
    apart, alike = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert similarity_loss(apart, alike).item() == pytest.approx(1)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_the_mean_over_rows_and_has_a_gradient(name: str):
    vectors = STUDENT.clone().requires_grad_()
    LOSSES[name](vectors, TEACHER).backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0
    single = LOSSES[name](STUDENT[:1], TEACHER[:1])
    assert torch.isfinite(single)


def test_a_mixture_is_the_weighted_sum():
    expected = 0.5 * cosine_loss(STUDENT, TEACHER) + 2 * similarity_loss(STUDENT, TEACHER)
    found = mixture({"cosine": 0.5, "squared": 0.0, "similarity": 2.0})(STUDENT, TEACHER)
    assert found.item() == pytest.approx(expected.item())
