"""`sdclr embed`: what it does."""

from rich.console import Console

from sdclr.cli.bar import is_first, progress_bar
from sdclr.cli.commands.embed import Embed
from sdclr.cli.machine import machine
from sdclr.cli.told import tell_encoder
from sdclr.data.sources import open_source
from sdclr.evaluation.embed import embed
from sdclr.training.resolve import resolve_encoder


def run(command: Embed, console: Console) -> None:
    """Write the features."""
    device, workers = machine(command.device, command.workers)
    source = open_source(command.images)
    used = resolve_encoder(command.encoder, source, image_size=command.image_size)
    if is_first():
        tell_encoder(used, source, device=device, workers=workers, amp=command.amp, console=console)
    with progress_bar("reading images") as told:
        rows, bad = embed(
            source,
            command.out,
            encoder=used,
            branch=command.branch,
            batch_size=command.batch_size,
            device=device,
            workers=workers,
            amp=command.amp,
            progress=told,
        )
    if is_first():
        console.print(f"{rows} embeddings written to {command.out}; {len(bad)} images are unreadable", markup=False)
