"""Action of `sdclr duplicates`."""

from collections.abc import Iterator
from typing import Final

from rich.console import Console

from sdclr.cli.commands.duplicates import Duplicates
from sdclr.cli.machine import machine
from sdclr.cli.mining_plan import tell_mining
from sdclr.cli.talk import finish, spelled
from sdclr.cli.told import duplicates_line
from sdclr.mining.config import MineConfig
from sdclr.mining.drop import find_duplicates
from sdclr.mining.duplicates import Duplicates as Found
from sdclr.mining.mine import open_mined
from sdclr.mining.plan import default_folder
from sdclr.visible import visible

_GROUPS: Final = 5
_MEMBERS: Final = 4
"""Maximum numbers of listed groups, and of listed images per group."""


def run(command: Duplicates, console: Console) -> None:
    """Find near-duplicates, print them, and write the lists."""
    config = MineConfig()
    source, used = open_mined(command.images, command.encoder, out=command.folder)
    device, workers = machine(command.device, command.workers)
    folder = command.folder or default_folder(source, used)
    tell_mining(
        console,
        source,
        used,
        config,
        folder,
        device=device,
        workers=workers,
        out=command.out or command.marks or folder,
    )
    found = find_duplicates(source, config, encoder=used, out=folder, device=device, workers=workers)
    for line in (_nothing_seen(found) or duplicates_line(found.groups), *_largest(found)):
        console.print(line, markup=False)
    if command.out is not None:
        console.print(f"list:    {found.write(command.out, source)}", markup=False)
    if command.marks is not None:
        marks = found.write_marks(command.marks, source)
        console.print(f"marks:   {marks}", markup=False)
    same = {"encoder": command.encoder, "folder": command.folder}
    listed = command.out is not None or command.marks is not None
    finish(
        console,
        spelled("apply", command.marks, command.images, manifest="kept.csv") if command.marks is not None else None,
        spelled("duplicates", command.images, marks="marks.csv", **same) if found.groups and not listed else None,
        spelled("mine", command.images, encoder=command.encoder, out=command.folder),
    )


def _nothing_seen(found: Found) -> str | None:
    if not found.candidates or found.looked:
        return None
    return (
        f"Near-duplicates: unknown. {found.candidates:,} pairs of embeddings are near, but there are no pixels to "
        "confirm them by: name the images, with the embeddings as --encoder."
    )


def _largest(found: Found) -> Iterator[str]:
    how = {pair.drop: f"{pair.how}, similarity {pair.similarity:.2f}" for pair in found.pairs}
    for keep, *others in found.groups[:_GROUPS]:
        yield f"  keep {visible(found.ids[keep])}"
        for position in others[:_MEMBERS]:
            yield f"    drop {visible(found.ids[position])} ({how[position]})"
        if len(others) > _MEMBERS:
            yield f"    and {len(others) - _MEMBERS:,} more"
    if len(found.groups) > _GROUPS:
        yield f"  and {len(found.groups) - _GROUPS:,} more groups"
