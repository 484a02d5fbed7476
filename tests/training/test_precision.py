"""bfloat16 where the processor computes in it, float32 elsewhere."""

import pytest
import torch
from torch import nn

from training.precision import autocast

CPU = torch.device("cpu")


def processor_with(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))


@pytest.mark.parametrize("instructions", [("avx512_bf16",), ("avx512_bf16", "amx_bf16")])
def test_a_processor_with_instructions_for_bfloat16_uses_them(
    instructions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor_with(monkeypatch, "avx2", *instructions)
    with autocast(CPU):
        assert torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_processor_without_them_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor_with(monkeypatch, "avx2", "avx512_f")
    lstm = nn.LSTM(4, 4, bidirectional=True)
    with autocast(CPU):
        states, _ = lstm(torch.ones(3, 2, 4))
    states.sum().backward()
    assert states.dtype == torch.float32
    assert all(weight.grad is not None for weight in lstm.parameters())


def test_a_recipe_may_want_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor_with(monkeypatch, "avx512_bf16")
    with autocast(CPU, bfloat16=False):
        assert not torch.is_autocast_enabled("cpu")
