"""Temporary seeding of torch's random state."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Restore the caller's random state after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed(number: int, device: torch.device) -> None:
    """Seed the generators of the CPU and the device. `torch.manual_seed` would also seed those of all other GPUs."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
