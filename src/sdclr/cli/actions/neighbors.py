"""`sdclr neighbors`: what it does."""

from rich.console import Console

from sdclr.cli.commands.neighbors import Neighbors
from sdclr.cli.lines import shown, write_lines
from sdclr.cli.machine import machine
from sdclr.errors import InputError
from sdclr.evaluation.neighbors import neighbors


def run(command: Neighbors, console: Console) -> None:
    """Find the neighbors, and print or write them."""
    device, workers = machine(command.device, command.workers)
    found = neighbors(
        command.images,
        command.queries,
        command.k,
        encoder=command.encoder,
        metric=command.metric,
        device=device,
        workers=workers,
        amp="auto",
    )
    for image in found.bad:
        console.print(f"left out: {shown(image.id)}: {image.reason}", markup=False)
    if not found.rows:
        raise InputError("no query could be read: give ids of the images, or image files")
    if command.out is not None:
        console.print(f"{len(found.rows)} neighbors written to {found.write(command.out)}", markup=False)
        return
    write_lines(f"{row.query}\t{row.rank}\t{row.id}\t{row.distance:.4f}" for row in found.rows)
