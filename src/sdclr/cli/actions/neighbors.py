"""Action of `sdclr neighbors`."""

from typing import Any

from rich.console import Console

from sdclr.cli.commands.neighbors import Neighbors
from sdclr.cli.lines import write_lines
from sdclr.cli.machine import machine
from sdclr.cli.plan import tell_output, tell_plan
from sdclr.cli.talk import beside, finish, note, spelled
from sdclr.data.intensities import with_intensities
from sdclr.data.sources import open_source
from sdclr.errors import InputError
from sdclr.features.embeddings import embedding_files
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import left_to_read
from sdclr.mining.plan import default_folder
from sdclr.mining.similar import neighbors
from sdclr.training.resolve import ResolvedEncoder, resolve_encoder
from sdclr.visible import visible


def run(command: Neighbors, console: Console) -> None:
    """Find the neighbors, and print or write them."""
    device, workers = machine(command.device, command.workers)
    notes = beside(console, results=command.out is None)
    images, encoder = _opened(command)
    if isinstance(encoder, ResolvedEncoder):
        folder = command.folder or default_folder(images, encoder)
        left = encoder.run is not None or left_to_read(images, encoder, MineConfig(), out=folder, device=device)
        tell_plan(
            notes,
            images,
            encoder,
            device=device,
            workers=workers,
            amp="auto",
            out=command.out or "standard output",
            read=None if left else folder,
        )
    else:
        note(notes, f"embeddings: {command.images}")
        tell_output(notes, command.out or "standard output")
    found = neighbors(
        images,
        command.queries,
        command.k,
        encoder=encoder,
        metric=command.metric,
        folder=command.folder,
        device=device,
        workers=workers,
        amp="auto",
    )
    for image in found.bad:
        note(notes, f"left out: {visible(image.id)}: {visible(image.reason)}")
    if not found.rows:
        raise InputError("no query could be read: give ids of the images, or image files")
    if command.out is not None:
        console.print(f"{len(found.rows)} neighbors written to {found.write(command.out)}", markup=False)
    else:
        write_lines(f"{row.query}\t{row.rank}\t{row.id}\t{row.distance:.4f}" for row in found.rows)
    finish(notes, spelled("mine", command.images, encoder=None if embedding_files(command.images) else command.encoder))


def _opened(command: Neighbors) -> tuple[Any, Any]:
    """The images and the encoder. Embeddings are not opened, because they may not need an encoder."""
    if embedding_files(command.images):
        return command.images, command.encoder
    source = open_source(command.images)
    encoder = resolve_encoder(command.encoder, source)
    return with_intensities(source, encoder.intensities), encoder
