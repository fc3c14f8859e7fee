"""The batches of a run, from images in memory or decoded by workers. Unreadable images are listed before training."""

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sdclr.config import to_json
from sdclr.data.changes import file_states, warn_of_changes
from sdclr.data.intensities import intensities_of
from sdclr.data.scan import check_bad_fraction, is_small, load_images, read_bad_images, scan, write_bad_images
from sdclr.data.sources import Source, SubsetSource, attributes_of, fingerprint
from sdclr.decoding.decode import BadImage
from sdclr.decoding.shrink import short_side
from sdclr.errors import InputError
from sdclr.files import write_json
from sdclr.intensities import Intensities
from sdclr.loading.batches import Loader, ResidentLoader
from sdclr.loading.cache import cached
from sdclr.loading.streaming import StreamLoader
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.distributed import Processes
from sdclr.training.run import Run

IMAGES_PER_WORKER = 2000  # decoded faster than a process starts
_CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")


@dataclass
class Feed:
    """A loader over the usable images of a source.

    Args:
        loader: Yields the batches; its samples are the usable images.
        source: All images.
        kept: `(M,)` positions in the source of the loader's samples.
        bad: Images listed as unusable so far.
        run: The run with this list.
        images: The loader's samples: `(M, 3, H, W)` uint8 on the training device if they are in memory, otherwise a
            source.
        workers: Number of processes that decode.
    """

    loader: Loader
    source: Source
    kept: NDArray[np.int64]
    bad: list[BadImage]
    run: Run
    images: Tensor | Source
    workers: int = 0

    @property
    def outside(self) -> NDArray[np.bool_] | None:
        """`(M,)` whether each of the loader's samples is an outside image; None if there are none in the source."""
        return outside_images(self.source, self.kept)

    @property
    def intensities(self) -> Intensities | None:
        """Intensity range of the images; None if all have 8 bits."""
        return intensities_of(self.source)[0] or None

    def name(self, sample: int) -> str:
        """The id of one of the loader's samples."""
        return self.source.ids[int(self.kept[sample])]

    def list_bad_images(self, place: Processes) -> None:
        """Add images that became unreadable during training (a removed file, a failing disk) to the run's list.

        All processes call this together.
        """
        listed = {bad.id for bad in self.bad}
        found = {bad.id: bad for share in place.gather(list(self.loader.bad)) for bad in share}
        fresh = [bad for image_id, bad in found.items() if image_id not in listed]
        if fresh:
            self.bad += fresh
            if place.first:
                write_bad_images(self.run.bad_images_file, self.bad)


@dataclass(frozen=True)
class _Usable:
    """The images that a run trains on: positions in the source `(M,)`, and pixels if they are in memory."""

    kept: NDArray[np.int64]
    images: Tensor | None


def create_feed(
    source: Source,
    run: Run,
    config: PretrainConfig,
    runtime: Runtime,
    place: Processes,
    *,
    weights: NDArray[np.float64] | None = None,
) -> Feed:
    """Find the usable images, list the others in the run, and create a loader over the usable ones.

    A new run stores this selection, and a resumed run uses the same images. All processes call this together.

    Raises:
        InputError: If too many images are bad, too few are left for one batch, or an image that the run was started
            with can no longer be read.
    """
    lookers = default_workers() if runtime.workers is None else runtime.workers
    workers = default_workers(place.device) if runtime.workers is None else runtime.workers
    settled = run.source if run.config_file.exists() else {}
    states = file_states(source) if place.first else None
    if "left_out" in settled:
        usable, bad = _recalled(source, run, settled, lookers), _listed(run)
    else:
        usable, bad = _survey(source, lookers, place)
        if place.first:
            write_bad_images(run.bad_images_file, bad)
        check_bad_fraction(bad, len(source), limit=runtime.max_bad_fraction, listed_in=run.bad_images_file)
    if states is not None:
        warn_of_changes(run.image_files, source, states, begun="left_out" in settled)
    images: Tensor | Source
    if usable.images is not None:
        images = usable.images.to(place.device)
    else:
        chosen = source if len(usable.kept) == len(source) else SubsetSource(source, usable.kept)
        writers = place.world * max(1, workers)
        side = short_side(config.views.image_size)
        images = cached(chosen, side, limit_gb=runtime.cache_gb, writers=writers, tell=place.first)
    outside = outside_images(source, usable.kept)
    draws = None if outside is None else int((~outside).sum())
    loader = _loader(images, config, replace(runtime, workers=workers), place, draws)
    place.barrier()  # all processes have read the stored selection before it is written
    if place.first and "left_out" not in settled:
        write_json(run.source_file, _description(source, usable, bad) | {"weights": weights_digest(weights)})
    if weights is not None:
        loader.weights = weights[usable.kept]
    return Feed(loader, source, usable.kept, bad, run, images, workers)


def default_workers(trains_on: torch.device | None = None) -> int:
    """Default number of decoding processes, from the cores that this process may use (divided by local processes).

    With a GPU or without training: all cores but one, at most 16. More would exceed the speed of a GPU, and each
    process holds batches in memory. With training on a CPU: a quarter of the cores, at most 8, because training uses
    every core itself and takes tens of times as long per image as decoding and drawing views.

    Args:
        trains_on: The device that trains at the same time, if any.
    """
    cores = _usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if trains_on is not None and trains_on.type == "cpu":
        return max(1, min(8, cores // 4))
    return max(1, min(16, cores - 1))


def _usable_cores() -> int:
    """Cores that this process may use; in a container limited by its CPU quota (Linux, cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_SHARE.read_text().split()
        return min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit in it ("max")
        return cores


def _survey(source: Source, workers: int, place: Processes) -> tuple[_Usable, list[BadImage]]:
    """Look at every image of a source."""
    if is_small(source):
        loaded = load_images(source, workers=min(workers, len(source) // IMAGES_PER_WORKER))
        if not loaded.sizes_differ:
            return _Usable(loaded.kept, loaded.images), loaded.bad
        # Sizes differ after the first images, so the images are streamed instead. No image is bad for that reason.
    bad = place.broadcast(scan(source, workers=workers) if place.first else [])
    return _Usable(_positions(source, {item.id for item in bad}), None), bad


def _recalled(source: Source, run: Run, settled: dict[str, Any], workers: int) -> _Usable:
    """The images that a run was started with, whether or not the others are readable now."""
    kept = _positions(source, set(settled["left_out"]))
    if not settled["held_in_memory"]:
        return _Usable(kept, None)
    loaded = load_images(source, workers=min(workers, len(source) // IMAGES_PER_WORKER))
    lost = np.setdiff1d(kept, loaded.kept)
    if len(lost):
        names = ", ".join(source.ids[index] for index in lost[:3].tolist())
        raise InputError(
            f"{len(lost)} images that {run.path} was started with can no longer be read ({names}, …): put them back, "
            "or start another run with --run"
        )
    wanted = torch.from_numpy(np.isin(loaded.kept, kept))
    return _Usable(kept, loaded.images if bool(wanted.all()) else loaded.images[wanted])


def outside_images(source: Source, kept: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """`(M,)` whether each of the kept images of a source is an outside one; None if the source has none."""
    outside: NDArray[np.bool_] | None = getattr(source, "outside", None)
    return None if outside is None else outside[kept]


def _loader(
    images: Tensor | Source, config: PretrainConfig, runtime: Runtime, place: Processes, draws: int | None
) -> Loader:
    # An epoch has as many samples as there are own images, so that its length does not depend on the outside ones.
    shared: dict[str, Any] = {
        "seed": config.seed,
        "batch_size": config.batch_size,
        "rank": place.rank,
        "world": place.world,
        "draws": draws,
    }
    if isinstance(images, Tensor):
        # On a CPU compiling takes longer than it saves.
        compiled = runtime.compile and place.device.type == "cuda"
        return ResidentLoader(images, config.views, **shared, channels_last=runtime.channels_last, compile=compiled)
    return StreamLoader(
        images,
        config.views,
        workers=runtime.workers or 0,
        device=place.device,
        shuffle_buffer=config.shuffle_buffer,
        **shared,
    )


def checked_weights(weights: ArrayLike, images: int, *, outside: int = 0) -> NDArray[np.float64]:
    """Sampling weights `(N,)`, one for each image, followed by ones for so many outside images.

    Raises:
        InputError: If their number is wrong, or they are not finite, negative or all zero.
    """
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (images,):
        raise InputError(f"sampling weights of shape {checked.shape} for {images} images: give one for each")
    if not np.isfinite(checked).all() or (checked < 0).any() or not checked.sum() > 0:
        raise InputError("sampling weights must be finite, not negative and not all zero")
    return np.concatenate([checked, np.ones(outside)])


def weights_digest(weights: NDArray[np.float64] | None) -> str | None:
    """SHA-256 of sampling weights, stored in the run; None without weights."""
    return None if weights is None else hashlib.sha256(weights.tobytes()).hexdigest()


def _positions(source: Source, left_out: set[str]) -> NDArray[np.int64]:
    return np.array([index for index, name in enumerate(source.ids) if name not in left_out], dtype=np.int64)


def _listed(run: Run) -> list[BadImage]:
    if not run.bad_images_file.exists():
        return []
    return [BadImage(image_id, reason, counted=True) for image_id, reason in read_bad_images(run.bad_images_file)]


def _description(source: Source, usable: _Usable, bad: list[BadImage]) -> dict[str, Any]:
    """Description of the training set. Labels are used for class counts only, which later tell the rare classes."""
    counts = None
    if source.labels is not None:
        counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes)).tolist()
    shown = attributes_of(source)
    left_out = np.setdiff1d(np.arange(len(source)), usable.kept)
    return {
        "name": source.name,
        "images": len(source),
        "bad_images": sum(item.counted for item in bad),
        "fingerprint": fingerprint(source),
        "classes": list(source.classes),
        "class_counts": counts,
        "attribute_counts": None
        if shown is None
        else dict(zip(shown.names, shown.positive_counts().tolist(), strict=True)),
        "held_in_memory": usable.images is not None,
        "left_out": [source.ids[index] for index in left_out.tolist()],
        **({} if (outside := outside_images(source, usable.kept)) is None else {"outside_images": int(outside.sum())}),
        **({"intensities": to_json(seen)} if (seen := intensities_of(source)[0]) else {}),
    }
