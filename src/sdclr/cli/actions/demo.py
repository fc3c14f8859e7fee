"""Action of `sdclr demo`."""

from rich.console import Console

from sdclr.cli.commands.demo import Demo
from sdclr.cli.talk import finish, note, spelled
from sdclr.cli.told import found
from sdclr.demo import mine_demo, run_demo


def run(command: Demo, console: Console) -> None:
    """Mine the digits, or train on them and compare."""
    if not command.train:
        note(console, f"output:  {command.run}")
        scores, kinds, page = mine_demo(command.run)
        for line in (*found(scores), *kinds, f"page: {page}"):
            console.print(line, markup=False)
        trained = command.run.with_name(f"{command.run.name}-train")
        finish(console, spelled("mine", "./images"), spelled("demo", "--train", run=trained))
        return
    note(console, f"output:  {command.run}")
    tables, page = run_demo(command.run, splits=command.splits)
    for table in tables:
        console.print(table.rich())
    console.print(f"report: {page}", markup=False)
    finish(console)
