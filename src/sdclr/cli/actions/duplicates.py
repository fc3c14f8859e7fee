"""`sdclr duplicates`: its options, and what it does."""

from collections.abc import Iterator
from typing import Final

from rich.console import Console

from sdclr.cli.bar import progress_bar
from sdclr.cli.commands.duplicates import Duplicates
from sdclr.cli.lines import shown
from sdclr.cli.told import duplicates_line, tell_encoder
from sdclr.mining.config import MineConfig
from sdclr.mining.drop import find_duplicates
from sdclr.mining.duplicates import Duplicates as Found
from sdclr.mining.mine import default_folder, open_mined
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers

_GROUPS: Final = 5
_MEMBERS: Final = 4
"""Groups, and images of a group, that are listed."""


def run(command: Duplicates, console: Console) -> None:
    """Find near-duplicates, tell, and write the lists."""
    config = MineConfig()
    source, used = open_mined(command.images, command.encoder)
    device = resolve_device(command.device)
    workers = default_workers() if command.workers is None else command.workers
    tell_encoder(used, source, device=device, workers=workers, amp=config.amp, console=console)
    folder = command.folder or default_folder(source, used)
    with progress_bar("reading images") as told:
        found = find_duplicates(source, config, encoder=used, out=folder, device=device, workers=workers, progress=told)
    for line in (_nothing_seen(found) or duplicates_line(found.groups), *_largest(found)):
        console.print(line, markup=False)
    if command.out is not None:
        console.print(f"list:    {found.write(command.out, source)}", markup=False)
    if command.marks is not None:
        marks = found.write_marks(command.marks, source)
        console.print(f"marks:   {marks}; go on with: sdclr apply {marks}", markup=False)
    if found.groups and command.out is None and command.marks is None:
        console.print("For a list of the images that could be dropped: --out drop.csv or --marks marks.csv")


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
        yield f"  keep {shown(found.ids[keep])}"
        for position in others[:_MEMBERS]:
            yield f"    drop {shown(found.ids[position])} ({how[position]})"
        if len(others) > _MEMBERS:
            yield f"    and {len(others) - _MEMBERS:,} more"
    if len(found.groups) > _GROUPS:
        yield f"  and {len(found.groups) - _GROUPS:,} more groups"
