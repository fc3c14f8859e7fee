"""The device of a command."""

import torch

from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers


def machine(device: str, workers: int | None) -> tuple[torch.device, int]:
    """The device with this name, and the number of processes that decode images.

    Raises:
        InputError: If there is no such device.
    """
    return resolve_device(device), default_workers() if workers is None else workers
