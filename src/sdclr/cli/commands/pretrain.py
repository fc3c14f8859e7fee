"""Options of `sdclr pretrain`."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from sdclr.cli.options import Images, LabeledImages
from sdclr.cli.parsing import read
from sdclr.errors import InputError
from sdclr.longtail.config import SubsetConfig
from sdclr.settings import read_settings_file
from sdclr.time_budget import check_budget
from sdclr.training.config import PretrainConfig
from sdclr.training.optim_config import OptimConfig
from sdclr.training.runtime import Runtime

RecipeName = Literal["auto", "cifar_lt", "imagenet100_lt", "imagenet_lt", "digits_demo"]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train an encoder on images without labels, or resume a run.

    Ctrl-C finishes the current step, saves the state and stops. Run the same command to resume. Default settings depend
    on the images and the machine. On several GPUs: torchrun --nproc-per-node 4 -m sdclr -- pretrain …

    For example:
        # Automatic settings.
        sdclr pretrain ./images
        # A run of 30 minutes.
        sdclr pretrain ./images --minutes 30
        # Start from pretrained weights.
        sdclr pretrain ./images --start timm:tf_efficientnet_lite0
        # Sample each kind that `sdclr mine ./images` found alike often.
        sdclr pretrain ./images --kinds mined/images
        # Other settings, in a folder of your choice.
        sdclr pretrain ./images --run runs/b --epochs 400 --damage.ratio 0.5 --encoder.name resnet34
        sdclr pretrain ./images --run runs/c --settings mine.toml
        # The setting of the paper.
        sdclr pretrain ./cifar10 --recipe cifar_lt --subset.kind long-tail --subset.max-count 4500
    """

    images: Images
    run: Path | None = None
    """Folder of the run; by default runs/ with a name from source and settings."""
    recipe: RecipeName = "auto"
    """Settings to start from; other options change them."""
    settings: Path | None = None
    """A .toml or .json file with settings, which may be partial, or the config.json of another run. Missing settings
    keep their automatic values; other options override the file."""
    minutes: float | None = None
    """Time budget in minutes, including the report: measures the speed and chooses the number of epochs, instead of
    --epochs. On a CPU, photographs then start from pretrained weights if they are installed."""
    kinds: Path | None = None
    """Folder of an earlier `sdclr mine` on IMAGES. Its kinds are sampled alike often, an image at most ten times as
    often as the mean."""
    outside: LabeledImages | None = None
    """Outside images, of other kinds than IMAGES, for --rebalance outside."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    runtime: Annotated[Runtime, tyro.conf.arg(name="")] = field(default_factory=Runtime)


SHORT: Final = {
    "images": (
        "IMAGES",
        "--run",
        "--subset.kind",
    ),
    "length and size": (
        "--minutes",
        "--epochs",
        "--batch-size",
        "--views.image-size",
        "--encoder.name",
        "--encoder.width",
    ),
    "start": (
        "--start",
        "--recipe",
        "--settings",
    ),
    "method": (
        "--kinds",
        "--framework",
        "--damage.kind",
        "--damage.ratio",
        "--rebalance",
        "--temperature",
        "--optim.lr",
        "--seed",
    ),
    "machine": (
        "--device",
        "--workers",
        "--amp",
        "--checkpoint-minutes",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""

FITTED: Final = (
    "--epochs",
    "--batch-size",
    "--views.image-size",
    "--encoder.name",
    "--encoder.width",
    "--damage.ratio",
    "--optim.lr",
    "--temperature",
)
"""Options whose default depends on the images and the machine, so that the help does not show one."""


PERMISSIVE = PretrainConfig(
    start="?", epochs=10**9, batch_size=720720, optim=OptimConfig(lr=1e9, final_lr=0.0, warmup_epochs=0.0)
)
"""Defaults until the images are known, which no single option contradicts (720720 = 16·9·5·7·11·13). The start is no
valid name, so that a given start is recognized."""

APART = ("recipe",)
"""Keys of a settings file that are not settings of a run, but name the recipe that it changes."""


def parse(options: list[str]) -> Pretrain:
    """Parse the options. They are parsed twice, because the defaults depend on the images.

    Raises:
        InputError: If an option has a value that cannot be used, or there are no such images.
    """
    options = _spelt_out(options)
    file = None
    try:
        command = _read(options, PERMISSIVE, silent=True)
        _check_minutes(command)
        if command.settings is not None:
            file = read_settings_file(command.settings)
            command = _read(options, file.config(PretrainConfig, base=PERMISSIVE, apart=APART), silent=True)
    except SystemExit:
        command = _read(options, PretrainConfig())  # prints the error with the usual defaults
    defaults: PretrainConfig = import_module("sdclr.cli.actions.pretrain").defaults(command, file)
    return _read(options, defaults)


def _check_minutes(command: Pretrain) -> None:
    """Raise an error if a length is given in addition to a time budget."""
    if command.minutes is None:
        return
    check_budget(command.minutes)
    for name in ("epochs", "steps"):
        if getattr(command.config, name) != getattr(PERMISSIVE, name):
            raise InputError(f"--minutes chooses the length of the run, which --{name} gives: leave out one of them")


def _read(options: list[str], defaults: PretrainConfig, *, silent: bool = False) -> Pretrain:
    default = Pretrain(images=tyro.MISSING, config=defaults)
    command: Pretrain = read(Pretrain, "pretrain", options, default, silent=silent)
    return command


def _spelt_out(options: list[str]) -> list[str]:
    """Expand two short forms of options: `--damage KIND`, and `--rebalance` with commas."""
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
