"""Action of `sdclr recipe`."""

from rich.console import Console

from sdclr.cli.commands.recipe import Recipe
from sdclr.cli.lines import write_lines
from sdclr.recipes import cifar_lt, imagenet100_lt, imagenet_lt
from sdclr.settings import settings_text

_RECIPES = {"cifar_lt": cifar_lt, "imagenet100_lt": imagenet100_lt, "imagenet_lt": imagenet_lt}


def run(command: Recipe, console: Console) -> None:  # noqa: ARG001  # all commands take one
    """Write a recipe as a settings file to standard output."""
    config = _RECIPES[command.name](command.method, command.head)
    # TOML leaves out settings that are None. The name of the recipe defines them.
    first = {"recipe": command.name} if command.format == "toml" else None
    write_lines([settings_text(config, command.format, first=first).rstrip("\n")])
