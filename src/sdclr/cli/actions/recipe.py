"""`sdclr recipe`: a named recipe as JSON."""

import json

from rich.console import Console

from sdclr.cli.commands.recipe import Recipe
from sdclr.config import to_json
from sdclr.recipes import cifar_lt, imagenet100_lt, imagenet_lt

_RECIPES = {"cifar_lt": cifar_lt, "imagenet100_lt": imagenet100_lt, "imagenet_lt": imagenet_lt}


def run(command: Recipe, console: Console) -> None:
    """Write it to standard output."""
    config = _RECIPES[command.name](command.method, command.head)
    console.print(json.dumps(to_json(config), indent=2), markup=False)
