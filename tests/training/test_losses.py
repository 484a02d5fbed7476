import math

import pytest
import torch
from torch import nn

from training.losses import (
    LOSSES,
    cosine_loss,
    label_loss,
    logits_loss,
    mixture,
    similarity_loss,
    soft_loss,
    softened_loss,
    squared_loss,
)

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


def test_logits_loss_is_the_mean_over_rows_of_the_squared_distance():
    logits, targets = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 3.0]])
    assert logits_loss(logits, targets).item() == pytest.approx((1 + 4 + 9) / 2)


def test_softened_loss_is_the_divergence_by_hand():
    # sigmoid(ln 3) = 3/4 for the teacher at temperature 2, 1/2 for the student: 4 (3/4 ln 3/2 + 1/4 ln 1/2)
    targets = torch.tensor([[2 * math.log(3), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert softened_loss(torch.zeros(1, 2), targets, temperature=2.0).item() == pytest.approx(expected)
    assert softened_loss(targets, targets, temperature=2.0).item() == pytest.approx(0, abs=1e-7)


def test_a_high_temperature_matches_centred_logits_whatever_it_is():
    # Hinton et al. 2015, section 2.1: in the limit (a - b)² / 2N with logits of mean zero, here 2² and 2² over 2 x 2
    logits, targets = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, -3.0]])
    for temperature in (100.0, 200.0):
        assert softened_loss(logits, targets, temperature).item() == pytest.approx(2, rel=1e-2)


def test_soft_targets_are_matched_by_logits_or_at_a_temperature():
    logits, targets = STUDENT, TEACHER
    assert soft_loss("logits", 3.0)(logits, targets) == logits_loss(logits, targets)
    assert soft_loss("temperature", 3.0)(logits, targets) == softened_loss(logits, targets, 3.0)


def test_label_loss_of_classes_is_the_cross_entropy_and_rows_without_a_label_add_nothing():
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 1.0]])
    assert label_loss(logits, torch.tensor([1.0, math.nan]), classes=True).item() == pytest.approx(math.log(4 / 3) / 2)
    assert label_loss(logits[:1], torch.tensor([0.0]), classes=True).item() == pytest.approx(math.log(4))


def test_label_loss_of_values_is_the_squared_error():
    labels = torch.tensor([3.0, math.nan])
    assert label_loss(torch.tensor([[1.0], [9.0]]), labels, classes=False).item() == pytest.approx(4 / 2)


@pytest.mark.parametrize("classes", [True, False])
def test_a_batch_without_any_label_has_no_loss_but_a_gradient_of_zero(classes: bool):
    logits = torch.ones(2, 2, requires_grad=True)
    loss = label_loss(logits, torch.full((2,), math.nan), classes=classes)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
