"""How much memory the pixels of large images take while they are decoded, in all worker processes together.

An image of 12,000 x 12,000 pixels takes a gigabyte until it is shrunk. Eight workers that each decode one would take
eight. So a large image waits until enough of a common amount is free; small images never wait.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.context import BaseContext
from typing import Any, Final

from sdclr.limits import DECODING

_UNIT: Final = 64 * 2**20
"""Bytes of a share. What takes less than one does not wait."""


class Shares:
    """A number of bytes that some processes or threads share.

    Args:
        total: Bytes. What asks for more gets them all.
        context: Share with the processes that this context starts and that get this object; else with threads alone.
    """

    def __init__(self, total: int, context: BaseContext | None = None) -> None:
        self._units = max(1, total // _UNIT)
        maker: Any = threading if context is None else context
        self._turn: AbstractContextManager[Any] = maker.Lock()
        self._free: AbstractContextManager[Any] = maker.Semaphore(self._units)

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them."""
        with ExitStack() as stack:
            units = min(self._units, size // _UNIT)
            if units:
                with self._turn:  # one at a time collects shares, so that no two wait for each other
                    for _ in range(units):
                        stack.enter_context(self._free)
            yield


_used: Final[list[Shares]] = []
"""Those of this process, made when the first image is decoded."""
_making: Final = threading.Lock()


def use_shares(shares: Shares) -> None:
    """Share with other processes from here on."""
    _used[:] = [shares]


def decoding(size: int) -> AbstractContextManager[None]:
    """Hold so many bytes for pixels; waits while others hold too much."""
    with _making:
        if not _used:
            use_shares(Shares(DECODING.value))
    return _used[0].held(size)
