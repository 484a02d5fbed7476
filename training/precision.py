"""Which precision a device computes in: recipes allow bfloat16, and the processor decides."""

import torch


def computes_in_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16.

    A processor without them emulates it at a fourth of float32's speed (training/LOG.md), and oneDNN has no LSTM for
    it there. On ARM nothing was tried, and it is taken to have none.
    """
    if device.type != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def autocast(device: torch.device, *, bfloat16: bool = True) -> torch.autocast:
    """Compute in bfloat16 what bears it, where that is allowed and the device can; all else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and computes_in_bfloat16(device))
