"""The device of a command."""

import torch

from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers


def machine(device: str, workers: int | None) -> tuple[torch.device, int]:
    """The device that a name asks for, and how many processes decode images for it.

    Raises:
        InputError: There is no such device.
    """
    return resolve_device(device), default_workers() if workers is None else workers
