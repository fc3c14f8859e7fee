"""Number formats of forward passes, and devices."""

import platform

import torch

from sdclr.choices import Amp


def autocast_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The type of products and convolutions; None for the type of the weights, float32.

    Args:
        amp: The setting; `auto` uses bfloat16 if the hardware multiplies it faster than float32.
        device: Device of the computation.
    """
    if amp == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else None
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def device_name(device: torch.device) -> str:
    """The manufacturer's name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for bfloat16 products: AMX tiles (CPU), or tensor cores from Ampere on (GPU)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
