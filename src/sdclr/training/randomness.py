"""torch's random state: seeded temporarily, and then restored."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed(number: int, device: torch.device) -> None:
    """Seed the CPU's generator and the device's: `torch.manual_seed` would seed those of all other GPUs too."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
