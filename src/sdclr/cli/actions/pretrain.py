"""`sdclr pretrain`: what it does."""

from rich.console import Console

from sdclr.cli.commands.pretrain import PERMISSIVE, Pretrain
from sdclr.cli.plan import tell_pretraining
from sdclr.cli.talk import budget, finish, note, spelled
from sdclr.config import from_json
from sdclr.data.sources import open_source
from sdclr.data.subset import select
from sdclr.files import read_json
from sdclr.progress import speaks
from sdclr.recipes import RECIPES, with_framework
from sdclr.reporting.page import run_report
from sdclr.training.config import SCRATCH, PretrainConfig
from sdclr.training.defaults import for_images, hint_on_start, starting_line
from sdclr.training.distributed import resolve_device
from sdclr.training.pretrain import default_run, pretrain


def run(command: Pretrain, console: Console) -> None:
    """Train, and write the report."""
    source = select(open_source(command.images), command.subset)
    limit = budget(command.minutes)
    folder = command.run or default_run(source, command.config, limit)
    tell_pretraining(console, source, command.config, command.runtime, folder, minutes=command.minutes)
    if command.config.start is not None:
        note(console, starting_line(command.config, command.minutes))
    gpu = resolve_device(command.runtime.device).type == "cuda"
    hint = hint_on_start(command.config, gpu=gpu, minutes=command.minutes) if command.recipe == "auto" else None
    if hint is not None:
        note(console, hint)
    run = pretrain(source, command.config, run=folder, runtime=command.runtime, minutes=limit)
    if speaks():
        page = run_report(run, source)
        console.print(f"encoder: {run.path / 'encoder.safetensors'}\nreport:  {page}", markup=False)
    finish(
        console,
        spelled("mine", command.images, encoder=run.path),
        spelled("embed", command.images, encoder=run.path, out=run.path / "embeddings.parquet"),
        spelled("export", run.path, run.path / "export"),
    )


def defaults(command: Pretrain) -> PretrainConfig:
    """The settings that options change: those of a file, of a recipe, or what suits the images.

    Args:
        command: The command as read with permissive defaults.
    """
    if command.settings is not None:
        return from_json(PretrainConfig, read_json(command.settings))
    asked = command.config
    if command.recipe != "auto":
        base = RECIPES[command.recipe]()
    else:
        base = for_images(
            select(open_source(command.images), command.subset),
            adapt=asked.damage.may_adapt,
            start=_start(asked),
            name=None if asked.encoder.name == PERMISSIVE.encoder.name else asked.encoder.name,
            minutes=command.minutes,
        )
    return with_framework(base, asked.framework)


def _start(asked: PretrainConfig) -> str | None:
    """Where the weights start as far as it was asked: options of an encoder ask for one of random weights."""
    if asked.start != PERMISSIVE.start:
        return asked.start or SCRATCH
    return None if asked.encoder == PERMISSIVE.encoder else SCRATCH
