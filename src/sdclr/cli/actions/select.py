"""Action of `sdclr select`."""

import shlex
from typing import Any

from rich.console import Console

from sdclr.cli.commands.select import Select
from sdclr.cli.labels import labeled_ids, spent, write_choice
from sdclr.cli.lines import write_lines
from sdclr.cli.machine import machine
from sdclr.cli.mining_plan import tell_mining
from sdclr.cli.talk import beside, finish, note, spelled
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import open_mined
from sdclr.mining.plan import default_folder
from sdclr.mining.select import select


def run(command: Select, console: Console) -> None:
    """Choose, and print or write the ids."""
    device, workers = machine(command.device, command.workers)
    labeled = labeled_ids(command.labeled)
    source, used = open_mined(command.images, command.encoder, out=command.folder)
    notes = beside(console, results=command.out is None)
    config = MineConfig()
    folder = command.folder or default_folder(source, used)
    tell_mining(
        notes, source, used, config, folder, device=device, workers=workers, out=command.out or "standard output"
    )
    choice = select(
        source,
        command.budget,
        encoder=used,
        method=command.method,
        labeled=labeled,
        config=config,
        out=folder,
        seed=command.seed,
        device=device,
        workers=workers,
    )
    if command.out is None:
        write_lines(choice.ids)
    else:
        write_choice(choice, command.out)
        console.print(f"to label next: {command.out}", markup=False)
    for line in spent(choice, command.method, labeled):
        note(notes, line)
    left = len(choice.scores) - len(choice.scores.bad) - len(labeled) - len(choice.ids)
    same = {"encoder": command.encoder, "folder": command.folder}
    finish(notes, _again(command, left, **same) if command.out is not None else None)


def _again(command: Select, left: int, **same: Any) -> str | None:
    """The command that chooses the next images; None if there are none left."""
    if command.out is None or command.budget == "all" or left < 1:
        return None
    again = command.out.with_name(f"{command.out.stem}-2{command.out.suffix}")
    budget, labeled = min(command.budget, left), [str(file) for file in (*command.labeled, command.out)]
    chosen = spelled("select", command.images, budget=budget, out=again, **same)
    return f"{chosen} --labeled {shlex.join(labeled)}"
