"""SIGTERM ends a command like Ctrl-C, by an exception, so that files are closed and one line is printed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM arrived. Processes that this process has started end silently."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


_asked: list[int] = []
"""Signals that arrived."""


def was_asked() -> bool:
    """Whether SIGTERM has arrived.

    `main` may catch another exception than `Terminated`: if all processes of a group get the signal, torch raises an
    error for a data loader's process that has ended.
    """
    return bool(_asked)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, unless there is another handler. Training has a separate handler."""
    _asked.clear()
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(signum: int, frame: FrameType | None) -> None:
    del frame
    _asked.append(signum)
    raise Terminated
