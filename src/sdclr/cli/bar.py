"""How far a command is."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sdclr.data import scan


def is_first() -> bool:
    """Whether this is the process that speaks: torchrun starts several."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_bar(what: str) -> Iterator[scan.Progress | None]:
    """A bar on standard error, where somebody may be looking."""
    if not sys.stderr.isatty() or not is_first():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
