"""The batches of a run: images held in memory or decoded by workers, bad ones found beforehand and listed."""

import csv
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdclr.data.decode import BadImage
from sdclr.data.loading import ResidentLoader, StreamLoader
from sdclr.data.scan import check_bad_fraction, is_small, load_images, scan, write_bad_images
from sdclr.data.sources import Source, SubsetSource, fingerprint
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.distributed import Processes
from sdclr.training.run import Run, write_json


@dataclass
class Feed:
    """A loader over the usable images of a source.

    Args:
        loader: Gives the batches; its samples are the usable images.
        source: All images.
        kept: `(M,)` positions in the source of the loader's samples.
        bad: What is listed as unusable so far.
        run: Whose list it is.
    """

    loader: ResidentLoader | StreamLoader
    source: Source
    kept: NDArray[np.int64]
    bad: list[BadImage]
    run: Run

    def name(self, sample: int) -> str:
        """The id of one of the loader's samples."""
        return self.source.ids[int(self.kept[sample])]

    def list_bad_images(self) -> None:
        """Add to the run's list what went bad since it was scanned (a file removed under way, a failing disk)."""
        listed = {bad.id for bad in self.bad}
        fresh = [bad for bad in getattr(self.loader, "bad", []) if bad.id not in listed]
        if fresh:
            self.bad += fresh
            write_bad_images(self.run.bad_images_file, self.bad)


def create_feed(source: Source, run: Run, config: PretrainConfig, runtime: Runtime, place: Processes) -> Feed:
    """Find the images that can be used, list the others in the run, and make a loader over the former.

    Raises:
        InputError: If too many images are bad, or too few are left for one batch.
    """
    workers = default_workers() if runtime.workers is None else runtime.workers
    shared = {"seed": config.seed, "batch_size": config.batch_size, "rank": place.rank, "world": place.world}
    loader: ResidentLoader | StreamLoader
    if is_small(source):
        loaded = load_images(source, workers=workers)
        kept, bad = loaded.kept, loaded.bad
        _describe(source, run, bad, runtime, place)
        loader = ResidentLoader(loaded.images.to(place.device), config.views, **shared)
    else:
        bad = _scanned(source, run, workers, place)
        gone = {item.id for item in bad}
        kept = np.array([index for index, image_id in enumerate(source.ids) if image_id not in gone], dtype=np.int64)
        _describe(source, run, bad, runtime, place)
        usable = SubsetSource(source, kept)
        loader = StreamLoader(usable, config.views, workers=workers, device=place.device, **shared)
    return Feed(loader, source, kept, bad, run)


def default_workers() -> int:
    """A decoding process for each core but one, 8 at the most."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1))


def _scanned(source: Source, run: Run, workers: int, place: Processes) -> list[BadImage]:
    """The unusable images of a large source; looked for once a run, since every image must be decoded for it."""
    if run.source_file.exists():
        return _listed(run)
    return place.broadcast(scan(source, workers=workers) if place.first else [])


def _listed(run: Run) -> list[BadImage]:
    if not run.bad_images_file.exists():
        return []
    with run.bad_images_file.open(newline="") as file:
        return [BadImage(row["id"], row["reason"], counted=True) for row in csv.DictReader(file)]


def _describe(source: Source, run: Run, bad: list[BadImage], runtime: Runtime, place: Processes) -> None:
    """Write the list of bad images and what the run was trained on, once, unless too much is bad."""
    if place.first:
        write_bad_images(run.bad_images_file, bad)
    check_bad_fraction(bad, len(source), limit=runtime.max_bad_fraction, listed_in=run.bad_images_file)
    place.barrier()
    if place.first and not run.source_file.exists():
        counts = None
        if source.labels is not None:
            # Labels go no further than this: counts say afterwards which classes were rare.
            counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes)).tolist()
        description = {
            "name": source.name,
            "images": len(source),
            "bad_images": sum(item.counted for item in bad),
            "fingerprint": fingerprint(source),
            "classes": list(source.classes),
            "class_counts": counts,
        }
        write_json(run.source_file, description)
    place.barrier()
