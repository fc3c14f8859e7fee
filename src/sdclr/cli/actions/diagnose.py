"""Action of `sdclr diagnose`."""

from rich.console import Console

from sdclr.cli.commands.diagnose import Diagnose
from sdclr.cli.machine import machine
from sdclr.cli.plan import tell_plan
from sdclr.cli.talk import finish, spelled
from sdclr.data.intensities import with_intensities
from sdclr.data.sources import open_source
from sdclr.files import write_json
from sdclr.mining.config import MineConfig
from sdclr.mining.diagnose import diagnose, may_reuse
from sdclr.mining.mine import left_to_read
from sdclr.mining.plan import default_folder
from sdclr.training.resolve import resolve_encoder


def run(command: Diagnose, console: Console) -> None:
    """Describe the collection, and write the description."""
    device, workers = machine(command.device, command.workers)
    source = open_source(command.images)
    used = resolve_encoder(command.encoder, source)
    folder = command.folder or default_folder(source, used)
    left: int | None = None
    if may_reuse(used, command.config):
        left = left_to_read(with_intensities(source, used.intensities), used, MineConfig(), out=folder, device=device)
    file = command.out or (used.results or default_folder(source, used)) / "diagnosis.json"
    tell_plan(
        console,
        source,
        used,
        device=device,
        workers=workers,
        amp="none",
        out=file,
        images=command.config.images,
        read=folder if left == 0 else None,
    )
    diagnosis = diagnose(source, command.config, encoder=used, folder=command.folder, device=device, workers=workers)
    for sentence in diagnosis.summary:
        console.print(sentence, markup=False)
    write_json(file, diagnosis.to_json())
    console.print(f"written to {file}", markup=False)
    same = {"encoder": command.encoder}
    finish(
        console,
        spelled("mine", command.images, **same),
        spelled("duplicates", command.images, **same),
        spelled("report", command.encoder, source=command.images) if used.run is not None else None,
    )
