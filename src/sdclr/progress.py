"""How far long work is: the library reports stages, and whoever called it decides how to show them.

The library never prints. It opens a `stage`, and calls what it gets with the number of things that are done. A listener
that was installed around the call shows that: the command line shows a bar or lines, a notebook a bar of its own, and
without a listener nothing happens. In Python, `show_progress` installs the listener that fits:

    with sdclr.show_progress():
        scores = sdclr.mine("./images")

This module imports nothing that is slow to load, so that every part of the package can report.
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
    """What a stage is told while it runs."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Report how far the stage is.

        Args:
            done: Things done so far, in all sessions.
            total: Things in all, where that was not known at the start or has changed.
            note: What else to show, such as the loss.
        """


@dataclass(eq=False)
class Stage:
    """A stage of work as its listener sees it."""

    name: str
    """What is done, such as "reading images"."""
    total: int | None = None
    """Things in all; None where that is not known."""
    unit: str = "images"
    """What is counted, in the plural."""
    counted: bool = True
    """False: the note stands in place of name and count."""
    done: int = 0
    note: str = ""


class Listener(Protocol):
    """Shows stages. Its methods are called in the process that installed it, from any of its threads."""

    def begin(self, stage: Stage) -> None:
        """A stage begins, inside those that have begun and not ended."""

    def update(self, stage: Stage) -> None:
        """Its `done`, `total` or `note` has changed."""

    def end(self, stage: Stage) -> None:
        """It ends, by success or by an error."""

    def tell(self, text: str) -> None:
        """Show a line that stays, such as an estimate of the time."""


_installed: ContextVar[tuple[Listener | None, int]] = ContextVar("sdclr_progress", default=(None, 0))


def listening() -> Listener | None:
    """Who listens here. A forked worker process inherits the listener but not its terminal: there nobody listens."""
    listener, process = _installed.get()
    return listener if process == os.getpid() else None


@contextmanager
def reporting_to(listener: Listener | None) -> Iterator[None]:
    """Install a listener for the calls inside the context; None silences them.

    Threads that are started inside have no listener, but may call a stage's update.
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
        name: What is done, such as "reading images"; a phrase that can stand alone.
        total: Things in all, if that is known.
        unit: What is counted, in the plural.
        done: Things done by an earlier session. They do not count as speed.
        counted: False shows the note in place of name and count, once there is one.

    Yields:
        `update(done, total=None, note="")`. Where the work tells nothing, do not call it: listeners show the time.

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
    """Show a line that stays, if somebody listens."""
    listener = listening()
    if listener is not None:
        listener.tell(visible_lines(text))


@contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[None]:
    """Show how far long calls inside the context are: a bar in a terminal and in a notebook, lines elsewhere.

    Args:
        stream: Where; by default standard error.

    Example:
        >>> with sdclr.show_progress():
        ...     scores = sdclr.mine("images", encoder="runs/digits")
    """
    # The display needs more than the standard library.
    from sdclr.progress_display import display_for  # noqa: PLC0415

    with display_for(sys.stderr if stream is None else stream) as listener, reporting_to(listener):
        yield


@contextmanager
def bar_by_default(*, wanted: bool) -> Iterator[None]:
    """What training shows where its caller installed nothing: a bar in a terminal. Unwanted, it is silent."""
    if not wanted:
        with reporting_to(None):
            yield
    elif listening() is None and _installed.get() == (None, 0) and speaks() and sys.stderr.isatty():
        with show_progress():
            yield
    else:
        yield


def speaks() -> bool:
    """Whether this is the process that speaks: torchrun starts several."""
    return os.environ.get("RANK", "0") == "0"


_SECONDS_SHOWN: Final = 100
_MINUTES_SHOWN: Final = 90
_HOURS_SHOWN: Final = 48


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3.5 h", "2.5 days"."""
    if seconds < _SECONDS_SHOWN:
        return f"{seconds:.0f} s"
    if seconds < 60 * _MINUTES_SHOWN:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < _HOURS_SHOWN else f"{hours / 24:.1f} days"


def _nothing(done: int, total: int | None = None, note: str = "") -> None:
    """Nobody listens."""
