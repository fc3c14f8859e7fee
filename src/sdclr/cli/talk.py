"""Output of a command: results on standard output; plan, time and progress.

A command prints results with `console.print`, and everything else with `note`, which --quiet silences. Before long
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
"""Maximum number of suggested commands."""


@dataclass(frozen=True)
class _Command:
    """A running command."""

    begun: float
    quiet: bool


_running: ContextVar[_Command | None] = ContextVar("sdclr_command", default=None)


class Talking(Console):
    """A console that does not write into a progress bar, and escapes control characters in file names."""

    def print(self, *things: Any, **how: Any) -> None:
        """Hide the bar, print, and show the bar again."""
        with aside():
            super().print(*(visible_lines(thing) if isinstance(thing, str) else thing for thing in things), **how)

    def on_broken_pipe(self) -> None:
        """Leave the end of the program to `sdclr.cli.endings`. rich would end it with exit code 1."""
        raise BrokenPipeError


@contextmanager
def talking(name: str, *, quiet: bool) -> Iterator[Console]:
    """Set up the output of one command.

    Args:
        name: The command's name, which is shown during work without a name.
        quiet: Print only results and errors.

    Yields:
        The console for results. Of several processes of torchrun, it prints only in the first.
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
    """The time budget of a command, if any, counted from its start."""
    running = _running.get()
    return None if minutes is None else Budget(minutes, began=None if running is None else running.begun)


def note(console: Console, text: str) -> None:
    """Print text that is not a result: a plan, a hint, the time taken. --quiet leaves it out."""
    running = _running.get()
    if running is None or not running.quiet:
        console.print(text, markup=False)


def beside(console: Console, *, results: bool) -> Console:
    """The console for notes: standard error if standard output has results for other programs, otherwise `console`.

    Args:
        console: The console for results.
        results: Whether other programs read the results.
    """
    return _console(stderr=True) if results else console


def finish(console: Console, *commands: str | None) -> None:
    """Print the time that the command took, and suggested next commands.

    Args:
        console: The console.
        commands: Complete commands, the most useful first; None is left out.
    """
    running = _running.get()
    if running is not None:
        note(console, f"done in {duration(time.monotonic() - running.begun)}")
    chosen = [command for command in commands if command is not None][:_NEXT]
    for head, command in zip(("next:   ", *[" " * 8] * _NEXT), chosen, strict=False):
        note(console, f"{head} {visible(command)}")


def spelled(name: str, *words: str | PathLike[str] | int | None, **options: str | PathLike[str] | int | None) -> str:
    """A command line.

    Args:
        name: The command's name.
        words: Positional arguments; None is left out.
        options: Options by name, with `_` for a hyphen; None is left out.

    Examples:
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
