"""`sdclr pretrain`: its options."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sdclr.cli.options import Images
from sdclr.cli.parsing import read
from sdclr.data.config import SubsetConfig
from sdclr.errors import InputError
from sdclr.time_budget import check_budget
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.optim_config import OptimConfig

RecipeName = Literal["auto", "cifar_lt", "imagenet100_lt", "imagenet_lt", "digits_demo"]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train an encoder on images without labels, or go on with a run that was stopped.

    Ctrl-C stops after the step at hand with everything saved; the same command again goes on. With no options the
    settings follow from the images and the machine. On several GPUs: torchrun --nproc-per-node 4 -m sdclr -- pretrain …

    For example:
        sdclr pretrain ./images --run runs/a
        sdclr pretrain ./images --minutes 30
        sdclr pretrain ./images --run runs/b --epochs 400 --damage.ratio 0.5 --encoder.name resnet34
        sdclr pretrain ./images --run runs/c --start timm:tf_efficientnet_lite0
        sdclr pretrain ./cifar10 --run runs/lt --recipe cifar_lt --subset.kind long-tail --subset.max-count 4500
    """

    images: Images
    run: Path | None = None
    """Folder of the run; by default runs/ and a name made of source and settings."""
    recipe: RecipeName = "auto"
    """Settings to start from; other options change them."""
    settings: Path | None = None
    """A config.json of another run to start from, instead of a recipe."""
    minutes: float | None = None
    """End within so many minutes, report included: the speed is measured, and the number of epochs chosen, in place of
    --epochs. The automatic settings go by it, too."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    runtime: Annotated[Runtime, tyro.conf.arg(name="")] = field(default_factory=Runtime)


PERMISSIVE = PretrainConfig(
    start="?", epochs=10**9, batch_size=720720, optim=OptimConfig(lr=1e9, final_lr=0.0, warmup_epochs=0.0)
)
"""Stands in for the defaults until the images are known: no single option contradicts it (720720 = 16·9·5·7·11·13). Its
start is none that anybody gives, so that one can tell whether one was given."""


def parse(options: list[str]) -> Pretrain:
    """Read the options. They are read twice, because the defaults depend on the images that they name.

    Raises:
        InputError: An option has a value that cannot be used, or there are no such images.
    """
    options = _spelt_out(options)
    if not {"-h", "--help"}.isdisjoint(options):
        return _read(options, PretrainConfig())
    command = _read(options, PERMISSIVE)
    if command.minutes is not None:
        check_budget(command.minutes)
        given = [
            f"--{name}" for name in ("epochs", "steps") if getattr(command.config, name) != getattr(PERMISSIVE, name)
        ]
        if given:
            raise InputError(f"--minutes chooses the length of the run, which {given[0]} gives: leave out one of them")
    defaults: PretrainConfig = import_module("sdclr.cli.actions.pretrain").defaults(command)
    return _read(options, defaults)


def _read(options: list[str], defaults: PretrainConfig) -> Pretrain:
    command: Pretrain = read(Pretrain, "pretrain", options, Pretrain(images=tyro.MISSING, config=defaults))
    return command


def _spelt_out(options: list[str]) -> list[str]:
    """The options with two short forms in full: `--damage KIND`, and `--rebalance` with commas."""
    full: list[str] = []
    for argument in options:
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
