"""The results of a queue of runs, printed at the end of a command."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from sdclr.cli.talk import beside, spelled
from sdclr.paper.results import FAILED_FILE
from sdclr.paper.runner import Outcome, Queue, failures
from sdclr.paper.tasks import Job, Task


def tell_failures(ended: Mapping[str, Outcome], folder: Path) -> None:
    """Print the runs that failed, and those that another process is working on.

    Raises:
        SystemExit: With 1, if a run failed.
    """
    errors = beside(Console(), results=True)
    for name, outcome in ended.items():
        if outcome == "busy":
            errors.print(f"in work by another process: {folder / name}; call again when it is done", markup=False)
    left = sum(outcome == "left" for outcome in ended.values())
    if left:
        runs = "1 run is" if left == 1 else f"{left} runs are"
        errors.print(f"the time is up: {runs} left, and all work is saved; run the same command to resume")
    failed = failures(ended, folder)
    for name, why in failed.items():
        errors.print(f"failed: {name}: {why} (all of it in {folder / name / FAILED_FILE})", markup=False)
    if failed:
        sys.exit(1)


def first_report(queue: Queue, jobs: Sequence[Job]) -> str | None:
    """The command that reports on the first finished run, if there is one."""
    finished = (queue.place(job) for job in jobs if isinstance(job, Task) and queue.finished(job))
    place = next(finished, None)
    return None if place is None else spelled("report", place)
