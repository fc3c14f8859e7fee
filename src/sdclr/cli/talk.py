"""Output of a command: results on standard output; plan, time and progress.

A command prints results with `console.print`, and everything else with `note`, which --quiet silences. Before any long
work it prints its plan (`sdclr.cli.plan`), and at its end `finish` prints the time and the next commands.
"""

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

from rich.console import Console

from sdclr.progress import duration, reporting_to, speaks
from sdclr.progress_display import aside, display_for
from sdclr.time_budget import Budget
from sdclr.visible import visible, visible_lines

_NEXT: Final = 3
"""Commands that are suggested, at most."""


@dataclass(frozen=True)
class _Command:
    """A command that runs."""

    begun: float
    quiet: bool


_running: ContextVar[_Command | None] = ContextVar("sdclr_command", default=None)


class Talking(Console):
    """A console that does not write into a progress bar, and that no name of a file can command."""

    def print(self, *things: Any, **how: Any) -> None:
        """Print without the bar, which comes back."""
        with aside():
            super().print(*(visible_lines(thing) if isinstance(thing, str) else thing for thing in things), **how)

    def on_broken_pipe(self) -> None:
        """Leave the end of the program to `sdclr.cli.endings`: rich's would end it with exit code 1."""
        raise BrokenPipeError


@contextmanager
def talking(name: str, *, quiet: bool) -> Iterator[Console]:
    """Set up how one command talks.

    Args:
        name: The command's, which is shown while it does something that has no name.
        quiet: Leave out everything but results and errors.

    Yields:
        The console for results. It is silent in all processes that torchrun starts but the first.
    """
    token = _running.set(_Command(time.monotonic(), quiet or not speaks()))
    try:
        if quiet or not speaks():
            with reporting_to(None):
                yield _console(quiet=not speaks())
            return
        with display_for(sys.stderr, idle=name) as display, reporting_to(display):
            yield _console()
    finally:
        _running.reset(token)


def budget(minutes: float | None) -> Budget | None:
    """The time that a command was given, if any, counted from when it began."""
    running = _running.get()
    return None if minutes is None else Budget(minutes, began=None if running is None else running.begun)


def note(console: Console, text: str) -> None:
    """Print what is no result: a plan, a hint, how long it took. --quiet leaves it out."""
    running = _running.get()
    if running is None or not running.quiet:
        console.print(text, markup=False)


def beside(console: Console, *, results: bool) -> Console:
    """Where notes go: standard error if standard output holds results for other programs, else the console.

    Args:
        console: For results.
        results: Whether other programs read them.
    """
    return _console(stderr=True) if results else console


def finish(console: Console, *commands: str | None) -> None:
    """Say how long the command took, and what to do next.

    Args:
        console: Where.
        commands: Commands that work as they stand, the most useful first; None is left out.
    """
    running = _running.get()
    if running is not None:
        note(console, f"done in {duration(time.monotonic() - running.begun)}")
    chosen = [command for command in commands if command is not None][:_NEXT]
    for head, command in zip(("next:   ", *[" " * 8] * _NEXT), chosen, strict=False):
        note(console, f"{head} {visible(command)}")


def spelled(name: str, *words: str | PathLike[str] | int | None, **options: str | PathLike[str] | int | None) -> str:
    """A command as it is typed.

    Args:
        name: The command's name.
        words: Arguments without a name; None is left out.
        options: Options by name, `_` for a hyphen; None leaves an option out.

    Example:
        >>> spelled("mine", "my images", encoder="runs/a", out=None)
        "sdclr mine 'my images' --encoder runs/a"
    """
    typed = ["sdclr", name, *(str(word) for word in words if word is not None)]
    for option, value in options.items():
        if value is not None:
            typed += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(typed)


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    return Talking(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
