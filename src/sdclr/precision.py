"""Which number format a forward pass runs in, and on what."""

import platform

import torch

from sdclr.choices import Amp


def autocast_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The type that products and convolutions are computed in; None for that of the weights, float32.

    Args:
        amp: What is asked; `auto` uses bfloat16 where the hardware multiplies it faster than float32.
        device: Where it runs.
    """
    if amp == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else None
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def device_name(device: torch.device) -> str:
    """The device by the name of its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for products in bfloat16: AMX tiles (CPU), tensor cores of Ampere or later (GPU)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
