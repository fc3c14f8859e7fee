"""`sdclr pretrain`: what it does."""

from rich.console import Console

from sdclr.cli.bar import is_first
from sdclr.cli.commands.pretrain import PERMISSIVE, Pretrain
from sdclr.config import from_json
from sdclr.data.sources import open_source
from sdclr.data.subset import select
from sdclr.files import read_json
from sdclr.recipes import RECIPES, with_framework
from sdclr.reporting.page import run_report
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import for_images, starting_line
from sdclr.training.pretrain import pretrain


def run(command: Pretrain, console: Console) -> None:
    """Train, and write the report."""
    source = select(open_source(command.images), command.subset)
    if command.config.start is not None and is_first():
        console.print(starting_line(command.config), markup=False)
    run = pretrain(source, command.config, run=command.run, runtime=command.runtime)
    if is_first():
        page = run_report(run, source)
        console.print(f"encoder: {run.path / 'encoder.safetensors'}\nreport:  {page}")


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
            start=asked.start,
            name=None if asked.encoder.name == PERMISSIVE.encoder.name else asked.encoder.name,
        )
    return with_framework(base, asked.framework)
