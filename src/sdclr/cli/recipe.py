"""`sdclr recipe`: a named recipe as JSON."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console

from sdclr.config import to_json
from sdclr.recipes import HeadKind, Method, cifar_lt, imagenet100_lt, imagenet_lt

_RECIPES = {"cifar_lt": cifar_lt, "imagenet100_lt": imagenet100_lt, "imagenet_lt": imagenet_lt}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Print a recipe of the paper as JSON, which `sdclr pretrain --settings` takes.

    For example:
        sdclr recipe cifar_lt --method simclr > simclr.json
        sdclr pretrain cifar100:./data --settings simclr.json --subset.kind long-tail
    """

    name: Annotated[Literal["cifar_lt", "imagenet100_lt", "imagenet_lt"], tyro.conf.Positional]
    """Which data set it is for."""
    method: Method = "sdclr"
    """Self-damaging or plain, a control of the damage, or another baseline."""
    head: HeadKind = "matched"
    """Projection heads: equal for all methods, or as unequal as in the paper's reference implementation."""


def print_recipe(command: Recipe, console: Console) -> None:
    """Write it to standard output."""
    config = _RECIPES[command.name](command.method, command.head)
    console.print(json.dumps(to_json(config), indent=2), markup=False)
