"""The start of a run: open its folder, resume an existing run, and initialize the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdclr.config import differences, digest
from sdclr.data.intensities import intensities_of, with_intensities
from sdclr.data.joined import JoinedSource
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.encoders import Network, create_network
from sdclr.errors import InputError
from sdclr.files import write_json
from sdclr.time_budget import Budget
from sdclr.training.budget import as_begun
from sdclr.training.config import PretrainConfig
from sdclr.training.distributed import Processes, one_job
from sdclr.training.feed import weights_digest
from sdclr.training.run import Run
from sdclr.training.start import load_start


def with_outside(own: Source, outside: ImageSource | None, config: PretrainConfig) -> Source:
    """The images of a run: own ones, followed by outside ones if there are any.

    Raises:
        InputError: If outside images are given without the rebalancer that uses them, or it without them.
    """
    asked = "outside" in config.rebalance
    if outside is None:
        if asked:
            raise InputError("--rebalance outside needs outside images: add --outside IMAGES, or leave it out")
        return own
    if not asked:
        raise InputError(
            "only the rebalancer outside uses outside images: add --rebalance outside, or leave out --outside"
        )
    return JoinedSource(own, open_source(outside))


def default_run(source: Source, config: PretrainConfig, budget: Budget | None = None) -> Path:
    """Default folder of a run."""
    minutes = f"-{budget.minutes:g}min" if budget else ""
    return Path("runs") / f"{source.name}-{digest(config)}{minutes}"


def as_trained(run: Run, images: Source) -> Source:
    """The images with the intensity range that the run was started with, if it has started.

    Raises:
        InputError: Another range is given.
    """
    if isinstance(images, JoinedSource):
        return JoinedSource(as_trained(run, images.own), images.others, images.name)
    kept = run.intensities
    seen, given = intensities_of(images)
    if kept is not None and given and seen != kept:
        raise InputError(
            f"{run.path} was trained with other intensities ({kept.sentence}): leave out intensities=, or name another "
            "folder with --run"
        )
    return with_intensities(images, kept)


def first_network(run: Run, config: PretrainConfig, place: Processes) -> Network:
    """The network to train. It loads trained weights if `config` names them and the run has no checkpoint."""
    network = create_network(config.encoder, config.head, config.views.image_size)
    if config.start is not None and not any(run.checkpoints.glob("*.pt")):
        start = load_start(network, config.start)
        if place.first:
            write_json(run.start_file, asdict(start))
    return network


@contextmanager
def alone(run: Run, place: Processes) -> Iterator[None]:
    """Lock a run, so that only one job trains it. All processes of a job call this together.

    Raises:
        InputError: If another job trains the run.
    """
    with one_job(place, run.path, ".training", "trains", "name another folder with --run"):
        yield


def open_run(
    folder: Path,
    source: Source,
    config: PretrainConfig,
    place: Processes,
    weights: NDArray[np.float64] | None,
    *,
    budget: Budget | None = None,
) -> tuple[Run, PretrainConfig]:
    """The run in a folder and its settings. An existing run must have the same settings, images and weights."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder with --run")
    parts = config.accumulate * place.world
    if config.batch_size % parts or config.batch_size < 2 * parts:
        raise InputError(
            f"a batch of {config.batch_size} cannot be split into {config.accumulate} equal parts of 2 or more for "
            f"each of {place.world} processes: make it a multiple of {parts}"
        )
    run = Run(folder)
    if run.config_file.exists():
        config = as_begun(run, config, budget)
        changed = differences(run.config, config)
        if changed:
            raise InputError(
                f"{folder} is a run with other settings ({'; '.join(changed)}): name another folder with --run"
            )
        if run.source_file.exists() and run.source.get("fingerprint") != fingerprint(source):
            raise InputError(
                f"{folder} was trained on {run.source['images']} images of {run.source['name']}, not on these "
                f"{len(source)}: give it the same images, or name another folder with --run"
            )
        if run.source_file.exists() and run.source.get("weights") != weights_digest(weights):
            raise InputError(f"{folder} was trained with other sampling weights: give the same, or name another folder")
    return run, config
