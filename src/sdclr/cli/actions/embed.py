"""Action of `sdclr embed`."""

from rich.console import Console

from sdclr.cli.commands.embed import Embed
from sdclr.cli.machine import machine
from sdclr.cli.plan import tell_plan
from sdclr.cli.talk import finish, spelled
from sdclr.data.sources import open_source
from sdclr.evaluation.embed import check_embeddings_name, embed
from sdclr.training.resolve import resolve_encoder
from sdclr.visible import counted


def run(command: Embed, console: Console) -> None:
    """Write the features."""
    check_embeddings_name(command.out)
    device, workers = machine(command.device, command.workers)
    source = open_source(command.images)
    used = resolve_encoder(command.encoder, source, image_size=command.image_size)
    tell_plan(console, source, used, device=device, workers=workers, amp=command.amp, out=command.out)
    rows, bad = embed(
        source,
        command.out,
        encoder=used,
        branch=command.branch,
        batch_size=command.batch_size,
        device=device,
        workers=workers,
        amp=command.amp,
    )
    console.print(f"{rows} embeddings written to {command.out}; {counted(len(bad))} unreadable", markup=False)
    gone = {image.id for image in bad}
    query = next((image_id for image_id in source.ids if image_id not in gone), None)
    finish(
        console,
        spelled("mine", command.images, encoder=command.out) if not bad else spelled("mine", command.out),
        spelled("neighbors", command.out, queries=query) if query is not None else None,
    )
