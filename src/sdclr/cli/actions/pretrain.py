"""Action of `sdclr pretrain`."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from sdclr.cli.commands.pretrain import APART, PERMISSIVE, Pretrain, RecipeName
from sdclr.cli.plan import tell_pretraining
from sdclr.cli.talk import budget, finish, note, spelled
from sdclr.config import to_json
from sdclr.data.sources import open_source
from sdclr.longtail.subset import select
from sdclr.mining.kind_weights import weights_of_scores
from sdclr.progress import speaks
from sdclr.recipes import RECIPES, with_framework
from sdclr.reporting.page import report
from sdclr.settings import SettingsFile
from sdclr.training.checkpoint import last_checkpoint
from sdclr.training.config import SCRATCH, PretrainConfig
from sdclr.training.defaults import default_config, hint_on_start, starting_line
from sdclr.training.distributed import resolve_device
from sdclr.training.opening import default_run, with_outside
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run


def run(command: Pretrain, console: Console) -> None:
    """Train, and write the report."""
    source = select(open_source(command.images), command.subset)
    limit = budget(command.minutes)
    outside = None if command.outside is None else open_source(command.outside)
    weights = None if command.kinds is None else weights_of_scores(source, command.kinds)
    folder = command.run or default_run(with_outside(source, outside, command.config), command.config, limit)
    tell_pretraining(console, source, command.config, command.runtime, folder, minutes=command.minutes, outside=outside)
    if weights is not None:
        note(console, _sampling(weights, command.kinds))
    if last_checkpoint(Run(folder).checkpoints) is None:  # a resumed run does not start from these weights again
        for line in _about_start(command):
            note(console, line)
    run = pretrain(
        source,
        command.config,
        run=folder,
        runtime=command.runtime,
        weights=weights,
        minutes=limit,
        outside=outside,
    )
    if speaks():
        page = report([run], source=source)
        console.print(f"encoder: {run.path / 'encoder.safetensors'}\nreport:  {page}", markup=False)
    finish(
        console,
        spelled("mine", command.images, encoder=run.path),
        spelled("embed", command.images, encoder=run.path, out=run.path / "embeddings.parquet"),
        spelled("export", run.path, run.path / "export"),
    )


def _sampling(weights: NDArray[np.float64], kinds: Path | None) -> str:
    if weights.min() == weights.max():
        return f"sampling: uniform, because {kinds} has one kind only"
    return f"sampling: each kind of {kinds} alike, an image {weights.min():.2f} to {weights.max():.2g} times the mean"


def _about_start(command: Pretrain) -> Iterator[str]:
    """The initial weights, and advice on them."""
    if command.config.start is not None:
        yield starting_line(command.config, command.minutes)
    gpu = resolve_device(command.runtime.device).type == "cuda"
    hint = hint_on_start(command.config, gpu=gpu, minutes=command.minutes) if command.recipe == "auto" else None
    if hint is not None:
        yield hint


def defaults(command: Pretrain, file: SettingsFile | None = None) -> PretrainConfig:
    """The defaults of the options: from a recipe or automatic, replaced by the values of a settings file.

    Args:
        command: The command, parsed with permissive defaults and the values of the file.
        file: A settings file.

    Raises:
        InputError: If there are no such images, or a value of the file contradicts the recipe.
    """
    if file is not None and _is_whole(file):
        return file.config(PretrainConfig, apart=APART)
    recipe: str = command.recipe
    if file is not None and recipe == "auto":
        recipe = file.word("recipe", get_args(RecipeName)) or "auto"
    asked = command.config
    if recipe != "auto":
        base = RECIPES[recipe]()
    else:
        base = default_config(
            select(open_source(command.images), command.subset),
            adapt=asked.damage.may_adapt,
            start=_start(asked),
            name=None if asked.encoder.name == PERMISSIVE.encoder.name else asked.encoder.name,
            minutes=command.minutes,
        )
    base = with_framework(base, asked.framework)
    return base if file is None else file.config(PretrainConfig, base=base, apart=APART)


def _start(asked: PretrainConfig) -> str | None:
    """The requested initial weights; None if not requested. Options of an encoder mean random weights."""
    if asked.start != PERMISSIVE.start:
        return asked.start or SCRATCH
    return None if asked.encoder == PERMISSIVE.encoder else SCRATCH


def _is_whole(file: SettingsFile) -> bool:
    """Whether a file has all settings, or is a run's config.json, which may lack settings of later versions."""
    every = to_json(PretrainConfig())
    whole = all(
        key in file.values and (not isinstance(value, dict) or value.keys() <= file.values[key].keys())
        for key, value in every.items()
    )
    return whole or file.path.name == "config.json"
