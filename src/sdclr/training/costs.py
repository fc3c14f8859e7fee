"""Estimated run times of commands on this machine, from a few seconds of measurement on some of the images."""

import math
import statistics
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import torch

from sdclr.data.sources import Source, SubsetSource
from sdclr.errors import InputError
from sdclr.features.rate import seconds_an_image
from sdclr.files import temporary_folder
from sdclr.progress import reporting_to, stage
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import default_config
from sdclr.training.interrupts import Interrupted
from sdclr.training.pretrain import pretrain
from sdclr.training.resolve import resolve_encoder
from sdclr.training.runtime import Runtime
from sdclr.visible import counted

_PROBE: Final = (16, 3)
"""Batch size and number of steps of the first measurement. On a slow machine it is the only one."""
_LONGER: Final = (64, 6)
"""The same for a second measurement, if it takes a few seconds. Larger batches have about the same speed on a CPU."""
_LONG: Final = 3600.0
_SECONDS: Final = 5.0
"""Maximum duration of the second measurement in seconds."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimated run time of a command."""

    command: str
    """Name of the command."""
    seconds: float | None
    """Estimated time; None if it cannot be estimated."""
    images_per_second: float | None
    """Measured speed."""
    work: str
    """The work that takes this time, and how it was measured; or why there is no estimate."""


def estimate_costs(
    source: Source,
    *,
    encoder: str | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> list[Cost]:
    """Estimate the time to encode the images, and the time to train on them.

    Args:
        source: The images, of which some are read.
        encoder: The encoder, as commands take it; by default the default encoder.
        device: Device of the networks.
        workers: Number of processes that decode.

    Returns:
        The costs of `mine`, of `evaluate` for 1,000 images, and of `pretrain` with automatic settings.
    """
    where = torch.device(device)
    return [*_reading(source, encoder, where, workers), _training(source, where)]


class Speed(NamedTuple):
    """Speed of training, with batch size and number of steps of the measurement."""

    images_per_second: float
    batch: int
    steps: int


def training_speed(source: Source, config: PretrainConfig, *, device: torch.device | str = "cpu") -> Speed:
    """Measure the speed of training in a temporary run of a few steps.

    Args:
        source: The images, of which as many are read as the steps need.
        config: Settings of the run. On a CPU its batches are at most 64 images, which changes the speed little.
        device: Device of the training.

    Raises:
        InputError: If too few images can be read.
    """
    where = torch.device(device)
    speed = _timed(source, config, where, *_PROBE)
    batch, steps = _LONGER if where.type == "cpu" else (config.batch_size, _LONGER[1])
    if batch * steps > _SECONDS * speed.images_per_second:
        return speed
    return _timed(source, config, where, batch, steps)


def _timed(source: Source, config: PretrainConfig, device: torch.device, batch: int, steps: int) -> Speed:
    batch = min(config.batch_size, batch, max(2, len(source) // 2))
    count = min(len(source), batch * steps)
    some = SubsetSource(source, np.arange(count, dtype=np.int64) * len(source) // count)
    damage = config.damage
    if damage.kind != "none":  # an adaptive ratio holds images out; steps cost the same
        damage = replace(damage, ratio=0.5)
    short = replace(
        config,
        damage=damage,
        rebalance=tuple(name for name in config.rebalance if name != "outside"),  # there are no outside images
        optim=replace(config.optim, warmup_epochs=0.0, joint=None),
        batch_size=batch,
        accumulate=1,
        epochs=math.ceil(steps / max(1, count // batch)),
    )
    runtime = Runtime(device=str(device), log_steps=1, max_bad_fraction=1.0, progress=False, checkpoint_minutes=1e6)
    with temporary_folder() as folder, reporting_to(None):
        try:
            run = pretrain(some, short, run=folder / "run", runtime=runtime)
        except Interrupted as stop:  # a temporary run cannot be resumed
            raise KeyboardInterrupt from stop
        speeds = [line["images_per_second"] for line in run.metrics()]
    # The first step allocates memory, so it does not count.
    return Speed(float(statistics.median(speeds[1:] or speeds)), batch, len(speeds))


def _reading(source: Source, encoder: str | None, device: torch.device, workers: int) -> list[Cost]:
    try:
        used = resolve_encoder(encoder, source)
    except InputError as error:
        return [Cost(command="mine", seconds=None, images_per_second=None, work=str(error))]
    seconds = seconds_an_image(used.encoder, used.preprocessing, source, device=device, workers=workers, amp="none")
    how = f"{used.short_name} at {used.preprocessing.image_size} px"
    rate = 1 / seconds
    return [
        Cost(
            command="mine",
            seconds=seconds * len(source),
            images_per_second=round(rate, 1),
            work=f"to read {len(source):,} images by {how} ({rate:,.0f} images/s on {device.type}); then kinds, map "
            "and page. The same for diagnose, duplicates, select and embed",
        ),
        Cost(
            command="evaluate",
            seconds=seconds * 1000,
            images_per_second=round(rate, 1),
            work="to read every 1,000 labeled images for training and test; then the probes",
        ),
    ]


def _training(source: Source, device: torch.device) -> Cost:
    try:
        config = default_config(source, gpu=device.type == "cuda")
        with stage("measuring the speed of training"):
            speed = training_speed(source, config, device=device)
    except InputError as error:
        return Cost(command="pretrain", seconds=None, images_per_second=None, work=str(error))
    steps = len(source) // config.batch_size
    seconds = config.epochs * steps * config.batch_size / speed.images_per_second
    width = "" if config.encoder.width is None else f" of width {config.encoder.width}"
    return Cost(
        command="pretrain",
        seconds=seconds,
        images_per_second=speed.images_per_second,
        work=f"for {counted(config.epochs, 'epoch')} with automatic settings: {config.encoder.name}{width} at "
        f"{config.views.image_size} px ({speed.images_per_second:,.0f} images/s on {device.type} in {speed.steps} "
        f"steps of {speed.batch} images)" + ("; --minutes 30 makes it shorter" if seconds > _LONG else ""),
    )
