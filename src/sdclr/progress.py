"""Progress of long work: the library reports stages, and the caller decides how to show them.

The library never prints. It opens a `stage` and reports the number of completed items. A listener that the caller
installed shows the progress: the command line shows a bar or lines, a notebook shows a bar. Without a listener nothing
happens. In Python, `show_progress` installs the right listener:

    with sdclr.show_progress():
        scores = sdclr.mine("./images")

This module imports no slow packages, so that every part of the package can report progress.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol, TextIO

from sdclr.visible import visible_lines

__all__ = ["Listener", "Stage", "Update", "duration", "listening", "reporting_to", "show_progress", "stage", "tell"]


class Update(Protocol):
    """Function that reports the progress of a stage."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Report the progress.

        Args:
            done: Number of completed items, over all sessions.
            total: Number of all items, if it was unknown at the start or has changed.
            note: Further text to show, such as the loss.
        """


@dataclass(eq=False)
class Stage:
    """A stage of work."""

    name: str
    """Name of the work, such as "reading images"."""
    total: int | None = None
    """Number of all items; None if unknown."""
    unit: str = "images"
    """Name of the items, in the plural."""
    counted: bool = True
    """False: the note is shown instead of name and count."""
    done: int = 0
    note: str = ""


class Listener(Protocol):
    """Shows stages. Its methods are called in the process that installed it, from any thread."""

    def begin(self, stage: Stage) -> None:
        """A stage begins, within the stages that have not ended."""

    def update(self, stage: Stage) -> None:
        """`done`, `total` or `note` of a stage has changed."""

    def end(self, stage: Stage) -> None:
        """A stage ends, by success or by an error."""

    def tell(self, text: str) -> None:
        """Show a permanent line, such as a time estimate."""


_installed: ContextVar[tuple[Listener | None, int]] = ContextVar("sdclr_progress", default=(None, 0))


def listening() -> Listener | None:
    """The current listener. A forked worker process inherits the listener but not its terminal, so it has none."""
    listener, process = _installed.get()
    return listener if process == os.getpid() else None


@contextmanager
def reporting_to(listener: Listener | None) -> Iterator[None]:
    """Install a listener for the calls inside the context; None silences them.

    Threads started inside have no listener, but may call a stage's `update`.
    """
    token = _installed.set((listener, os.getpid()))
    try:
        yield
    finally:
        _installed.reset(token)


@contextmanager
def stage(
    name: str, total: int | None = None, unit: str = "images", *, done: int = 0, counted: bool = True
) -> Iterator[Update]:
    """Report a stage of work.

    Args:
        name: Name of the work, such as "reading images"; must be clear without context.
        total: Number of all items, if known.
        unit: Name of the items, in the plural.
        done: Number of items completed by an earlier session. They do not count for the speed.
        counted: False shows the note, if there is one, instead of name and count.

    Yields:
        `update(done, total=None, note="")`. If progress is unknown, do not call it: listeners show the elapsed time.

    Example:
        >>> with stage("hashing files", 2, unit="files") as update:
        ...     for number in (1, 2):
        ...         update(number)
    """
    listener = listening()
    if listener is None:
        yield _nothing
        return
    going, process = Stage(name, total, unit, counted, done), os.getpid()

    def update(done: int, total: int | None = None, note: str = "") -> None:
        if os.getpid() != process:
            return
        going.done, going.note = done, note
        if total is not None:
            going.total = total
        listener.update(going)

    listener.begin(going)
    try:
        yield update
    finally:
        listener.end(going)


def tell(text: str) -> None:
    """Show a permanent line, if there is a listener."""
    listener = listening()
    if listener is not None:
        listener.tell(visible_lines(text))


@contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[None]:
    """Show the progress of long calls inside the context: a bar in a terminal or notebook, otherwise lines.

    Args:
        stream: Output stream; by default standard error.

    Example:
        >>> with sdclr.show_progress():
        ...     scores = sdclr.mine("images", encoder="runs/digits")
    """
    # The display imports more than the standard library.
    from sdclr.progress_display import display_for  # noqa: PLC0415

    with display_for(sys.stderr if stream is None else stream) as listener, reporting_to(listener):
        yield


@contextmanager
def bar_by_default(*, wanted: bool) -> Iterator[None]:
    """Show a bar in a terminal if the caller has not installed a listener. If not wanted, show nothing."""
    if not wanted:
        with reporting_to(None):
            yield
    elif listening() is None and _installed.get() == (None, 0) and speaks() and sys.stderr.isatty():
        with show_progress():
            yield
    else:
        yield


def speaks() -> bool:
    """Whether this process prints: only the first of several processes of torchrun does."""
    return os.environ.get("RANK", "0") == "0"


_SECONDS_SHOWN: Final = 100
_MINUTES_SHOWN: Final = 90
_HOURS_SHOWN: Final = 48


def duration(seconds: float) -> str:
    """A readable duration: "40 s", "12 min", "3.5 h", "2.5 days"."""
    if seconds < _SECONDS_SHOWN:
        return f"{seconds:.0f} s"
    if seconds < 60 * _MINUTES_SHOWN:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < _HOURS_SHOWN else f"{hours / 24:.1f} days"


def _nothing(done: int, total: int | None = None, note: str = "") -> None:
    """Do nothing: there is no listener."""
