"""Whose samples a loss sees: those of all processes of the group, or of this process alone."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final

import torch.distributed as dist

_STATE: Final = SimpleNamespace(alone=False)


def world() -> int:
    """Number of processes whose samples a loss sees."""
    if _STATE.alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Losses inside the block see only the samples of this process, so the other processes need not take part."""
    before, _STATE.alone = _STATE.alone, True
    try:
        yield
    finally:
        _STATE.alone = before
