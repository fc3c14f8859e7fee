"""Ctrl-C, SIGTERM and the end of a time limit end a run after the current step, with its state saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

TIME_IS_UP: Final = signal.SIGALRM
"""The signal by which `stopping_after` asks."""


class Interrupted(BaseException):  # like KeyboardInterrupt, which it stands in for
    """The run was asked to stop and its state is saved.

    Args:
        signum: The signal that asked; `TIME_IS_UP` is that of a time limit.
        message: Where the state lies and how to go on.

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
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
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
    """Listen for SIGINT and SIGTERM; what handled them before does so again afterwards.

    Python delivers signals to the main thread only: elsewhere nothing is listened for.
    """
    interrupts = Interrupts()
    _listeners.append(interrupts)
    try:
        with _handled(interrupts):
            yield interrupts
    finally:
        _listeners.remove(interrupts)


_AGAIN: Final = 1.0
"""Seconds between two requests."""
_listeners: list[Interrupts] = []
"""Who listens, the innermost last."""


@contextlib.contextmanager
def stopping_after(seconds: float) -> Iterator[None]:
    """A time limit. Who is listening when it ends is asked to stop; else what is going on is interrupted at once.

    It needs the main thread, as signals do: elsewhere there is no limit.

    Args:
        seconds: From now on.

    Raises:
        Interrupted: By `TIME_IS_UP`, when the time is up.
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
    # Again and again, because a listener that is past its last step does not stop.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(TIME_IS_UP, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _handled(interrupts: Interrupts) -> Iterator[None]:
    """Its signals are handled by this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, interrupts.handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
