"""Ctrl-C and SIGTERM end a run after the step at hand, with its state saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):  # like KeyboardInterrupt, which it stands in for
    """The run was asked to stop and its state is saved.

    Args:
        signum: The signal that asked.
        message: Where the state lies and how to go on.
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
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {signum: signal.signal(signum, interrupts.handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
