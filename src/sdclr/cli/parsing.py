"""From arguments to a command with all its options."""

from typing import Annotated

import tyro

from sdclr.cli.apply import Apply
from sdclr.cli.attributes import Attributes
from sdclr.cli.bench import Bench
from sdclr.cli.commands import (
    Command,
    Demo,
    Diagnose,
    Embed,
    Evaluate,
    Export,
    Mine,
    Neighbors,
    Pretrain,
    Report,
    Select,
)
from sdclr.cli.duplicates import Duplicates
from sdclr.cli.finetune import Finetune
from sdclr.cli.recipe import Recipe
from sdclr.cli.reproduce import Reproduce
from sdclr.config import from_json
from sdclr.data.sources import open_source
from sdclr.data.subset import select
from sdclr.files import read_json
from sdclr.recipes import RECIPES, with_framework
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import for_images
from sdclr.training.optim import OptimConfig

PERMISSIVE = PretrainConfig(epochs=10**9, batch_size=720720, optim=OptimConfig(lr=1e9, final_lr=0.0, warmup_epochs=0.0))
"""Stands in for the defaults until the images are known: no single option contradicts it (720720 = 16·9·5·7·11·13)."""


def parse(argv: list[str]) -> Command:
    """Read the arguments; those of `pretrain` twice, since the defaults depend on the images they name."""
    if "pretrain" in argv[:1]:
        argv = _spelt_out(argv)
    wants_help = not {"-h", "--help"}.isdisjoint(argv)
    command = _read(argv, Pretrain(images=tyro.MISSING, config=PretrainConfig() if wants_help else PERMISSIVE))
    if not isinstance(command, Pretrain):
        return command
    if command.settings is not None:
        base = from_json(PretrainConfig, read_json(command.settings))
    elif command.recipe != "auto":
        base = RECIPES[command.recipe]()
    else:
        asked = command.config
        base = for_images(
            select(open_source(command.images), command.subset),
            adapt=asked.damage.may_adapt,
            start=asked.start,
            name=None if asked.encoder.name == PERMISSIVE.encoder.name else asked.encoder.name,
        )
    if command.settings is None:
        base = with_framework(base, command.config.framework)
    return _read(argv, Pretrain(images=tyro.MISSING, config=base))


def _spelt_out(argv: list[str]) -> list[str]:
    """The arguments of `pretrain` with two short forms in full: `--damage KIND`, and `--rebalance` with commas."""
    full: list[str] = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name == "--damage":
            full.append("--damage.kind" + equals + value)
        elif name == "--rebalance" and equals:
            full += [name, *value.split(",")]
        elif full and full[-1] == "--rebalance":
            full += argument.split(",")
        else:
            full.append(argument)
    return full


def _read(argv: list[str], defaults: Pretrain) -> Command:
    subcommands = (
        Annotated[Pretrain, tyro.conf.subcommand("pretrain", default=defaults)]
        | Annotated[Mine, tyro.conf.subcommand("mine")]
        | Annotated[Select, tyro.conf.subcommand("select")]
        | Annotated[Apply, tyro.conf.subcommand("apply")]
        | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
        | Annotated[Duplicates, tyro.conf.subcommand("duplicates")]
        | Annotated[Embed, tyro.conf.subcommand("embed")]
        | Annotated[Neighbors, tyro.conf.subcommand("neighbors")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Attributes, tyro.conf.subcommand("attributes")]
        | Annotated[Finetune, tyro.conf.subcommand("finetune")]
        | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Bench, tyro.conf.subcommand("bench")]
        | Annotated[Recipe, tyro.conf.subcommand("recipe")]
        | Annotated[Demo, tyro.conf.subcommand("demo")]
    )
    command: Command = tyro.cli(
        subcommands,
        args=argv,
        prog="sdclr",
        description="Find the rare images of unlabeled, long-tailed collections, and train encoders that serve rare "
        "classes better. `sdclr COMMAND --help` explains a command, --version prints the version, --debug shows the "
        "traceback of an error.",
    )
    return command
