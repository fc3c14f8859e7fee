"""`sdclr demo`: what it does."""

from rich.console import Console

from sdclr.cli.bar import progress_bar
from sdclr.cli.commands.demo import Demo
from sdclr.cli.told import found
from sdclr.demo import mine_demo, run_demo


def run(command: Demo, console: Console) -> None:
    """Mine the digits, or train on them and compare."""
    if not command.train:
        with progress_bar("reading images") as told:
            scores, kinds, page = mine_demo(command.run, progress=told)
        for line in (*found(scores), *kinds, f"page: {page}"):
            console.print(line, markup=False)
        return
    tables, page = run_demo(command.run, splits=command.splits, console=console)
    for table in tables:
        console.print(table.rich())
    console.print(f"report: {page}")
