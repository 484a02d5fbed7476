"""Muon in float32 beside PyTorch's, which orthogonalises in bfloat16."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from training.muon import FloatMuon, orthogonal


def matrices() -> list[nn.Parameter]:
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 24), (16, 16))]


def steps(optimiser: torch.optim.Optimizer, weights: Sequence[nn.Parameter], count: int, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    for _ in range(count):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimiser.step()
    return [weight.detach().clone() for weight in weights]


@pytest.mark.parametrize("nesterov", [True, False])
def test_its_steps_are_those_of_pytorch_but_for_rounding(nesterov: bool) -> None:
    ours, theirs, start = matrices(), matrices(), [weight.detach() for weight in matrices()]
    found = steps(FloatMuon(ours, lr=0.02, weight_decay=0.1, nesterov=nesterov), ours, 5, seed=1)
    wanted = steps(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, nesterov=nesterov), theirs, 5, seed=1)
    for one, other, first in zip(found, wanted, start, strict=True):
        way, expected = (one - first).flatten(), (other - first).flatten()
        assert torch.cosine_similarity(way, expected, dim=0) > 0.999
        assert float(way.norm() / expected.norm()) == pytest.approx(1, abs=0.01)


def test_a_run_goes_on_from_the_state_of_pytorchs() -> None:
    theirs = matrices()
    before = torch.optim.Muon(theirs, lr=0.02)
    steps(before, theirs, 3, seed=1)
    ours = [nn.Parameter(weight.detach().clone()) for weight in theirs]
    after = FloatMuon(ours, lr=0.5)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for one, other in zip(steps(after, ours, 1, seed=2), steps(before, theirs, 1, seed=2), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(12, 40), (3.4445, -4.7750, 2.0315), 5, 1e-7))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_matrices_without_a_gradient_stay() -> None:
    weights = matrices()
    before = [weight.detach().clone() for weight in weights]
    FloatMuon(weights, lr=0.1).step()
    assert all(torch.equal(weight, kept) for weight, kept in zip(weights, before, strict=True))
