"""How a queue of runs ended, told at the end of a command."""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from sdclr.paper.results import FAILED_FILE
from sdclr.paper.runner import Outcome, failures


def tell_failures(ended: Mapping[str, Outcome], folder: Path) -> None:
    """Name what failed or is in work elsewhere.

    Raises:
        SystemExit: With 1, if something failed.
    """
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for name, outcome in ended.items():
        if outcome == "busy":
            errors.print(f"in work by another process: {folder / name}; call again when it is done", markup=False)
    failed = failures(ended, folder)
    for name, why in failed.items():
        errors.print(f"failed: {name}: {why} (all of it in {folder / name / FAILED_FILE})", markup=False)
    if failed:
        sys.exit(1)
