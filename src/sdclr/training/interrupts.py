"""Ctrl-C, SIGTERM and the end of a time limit end a run after the current step, with its state saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

TIME_IS_UP: Final = signal.SIGALRM
"""The signal that `stopping_after` uses."""


class Interrupted(BaseException):  # like KeyboardInterrupt, which it replaces
    """A signal or a time limit stopped the run, and its state is saved.

    Args:
        signum: The signal; `TIME_IS_UP` for a time limit.
        message: Where the state is saved and how to resume.

    Example:
        >>> import signal
        >>> try:
        ...     raise sdclr.Interrupted(signal.SIGTERM, "stopped after step 20; the same call goes on")
        ... except sdclr.Interrupted as stopped:
        ...     print(stopped, stopped.exit_code)
        stopped after step 20; the same call goes on 143
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """The shell's exit code for a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class Interrupts:
    """Remembers the first signal; a second one of the same kind ends the process as usual."""

    def __init__(self) -> None:
        self.signum = 0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler."""
        del frame
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL if signum != signal.SIGINT else signal.default_int_handler)


@contextlib.contextmanager
def listening() -> Iterator[Interrupts]:
    """Listen for SIGINT and SIGTERM, and restore the previous handlers afterwards.

    Python delivers signals to the main thread only. In another thread this does nothing.
    """
    interrupts = Interrupts()
    _listeners.append(interrupts)
    try:
        with _handled(interrupts):
            yield interrupts
    finally:
        _listeners.remove(interrupts)


_AGAIN: Final = 1.0
"""Seconds between two requests to stop."""
_listeners: list[Interrupts] = []
"""Active listeners, the innermost last."""


@contextlib.contextmanager
def stopping_after(seconds: float) -> Iterator[None]:
    """Limit the time of a block. When the time is up, the innermost listener is asked to stop.

    Without a listener the block is interrupted at once. Like signals, the limit works in the main thread only.

    Args:
        seconds: The limit, from now on.

    Raises:
        Interrupted: With the signal `TIME_IS_UP`, when the time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        del frame
        if not _listeners:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted(signum, "the time is up")
        _listeners[-1].signum = signum

    before = signal.signal(TIME_IS_UP, ring)
    # Repeated, because a listener that is past its last step does not stop.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(TIME_IS_UP, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _handled(interrupts: Interrupts) -> Iterator[None]:
    """Handle SIGINT and SIGTERM with `interrupts` inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, interrupts.handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
