"""A memory limit for decoding large images, shared by all worker processes.

An image of 12,000 x 12,000 pixels takes a gigabyte until it is shrunk, and eight workers that each decode one would
take eight. So a large image waits until enough of a shared amount is free; small images never wait.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.context import BaseContext
from typing import Any, Final

from sdclr.limits import DECODING

_UNIT: Final = 64 * 2**20
"""Bytes per share. Images that take less than one share do not wait."""


class Shares:
    """An amount of memory that processes or threads share.

    Args:
        total: Size in bytes. A larger request takes all of it.
        context: Share with the processes that this context starts and that get this object; None: only with threads.
    """

    def __init__(self, total: int, context: BaseContext | None = None) -> None:
        self._units = max(1, total // _UNIT)
        maker: Any = threading if context is None else context
        self._turn: AbstractContextManager[Any] = maker.Lock()
        self._free: AbstractContextManager[Any] = maker.Semaphore(self._units)

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and hold them."""
        with ExitStack() as stack:
            units = min(self._units, size // _UNIT)
            if units:
                with self._turn:  # only one at a time collects shares, to avoid a deadlock
                    for _ in range(units):
                        stack.enter_context(self._free)
            yield


_used: Final[list[Shares]] = []
"""The shares of this process, created when the first image is decoded."""
_making: Final = threading.Lock()


def use_shares(shares: Shares) -> None:
    """From now on, use these shares, which other processes use, too."""
    _used[:] = [shares]


def decoding(size: int) -> AbstractContextManager[None]:
    """Hold `size` bytes for pixels; waits while others hold too much."""
    with _making:
        if not _used:
            use_shares(Shares(DECODING.value))
    return _used[0].held(size)
