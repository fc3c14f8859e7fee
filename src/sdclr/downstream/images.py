"""Labeled training images and their batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.data.scan import check_bad_fraction, is_small, load_images, scan, write_bad_images
from sdclr.data.source import IndirectSource, Source
from sdclr.data.stored import CACHE_GB
from sdclr.decoding.decode import BadImage
from sdclr.decoding.shrink import short_side
from sdclr.errors import InputError
from sdclr.loading.batches import Loader, ResidentLoader
from sdclr.loading.cache import cached
from sdclr.loading.streaming import StreamLoader
from sdclr.views.config import ViewConfig

_BALANCED = 0xBA1  # makes the random numbers of balanced epochs differ from others with the same seed


@dataclass(frozen=True)
class LabeledImages:
    """The readable images of a source that have a label.

    Args:
        source: All images.
        positions: `(M,)` positions in the source.
        labels: `(M,)` class ids.
        pixels: `(M, 3, H, W)` uint8 if they fit into memory; otherwise None.
    """

    source: Source
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    pixels: Tensor | None

    def __len__(self) -> int:
        return len(self.positions)

    def subset(self, which: NDArray[np.int64]) -> "LabeledImages":
        """The images at positions `which`, with repetitions."""
        pixels = None if self.pixels is None else self.pixels[torch.from_numpy(which).to(self.pixels.device)]
        return LabeledImages(self.source, self.positions[which], self.labels[which], pixels)


def labeled_images(source: Source, *, device: torch.device, workers: int = 0, listed_in: Path) -> LabeledImages:
    """Find the usable labeled images of a source by reading all images.

    Args:
        source: Labeled images.
        device: Device of small images.
        workers: Number of processes that decode; 0 decodes in this one.
        listed_in: File for the list of unreadable images.

    Raises:
        InputError: If there are no labels, or more than 1% of the images are unreadable.
    """
    labels = known_labels(source)
    kept, pixels, bad = _usable(source, workers)
    write_bad_images(listed_in, bad)
    check_bad_fraction(bad, len(source), listed_in=listed_in)
    labeled = labels[kept] >= 0
    if pixels is not None:
        pixels = (pixels if labeled.all() else pixels[torch.from_numpy(labeled)]).to(device)
    return LabeledImages(source, kept[labeled], labels[kept[labeled]], pixels)


def known_labels(source: Source) -> NDArray[np.int64]:
    """The labels (N,) of a source; -1 if unknown.

    Raises:
        InputError: If there are no labels.
    """
    labels = source.labels
    if labels is None or not (labels >= 0).any():
        raise InputError(f"{source.name} has no labels: a classifier needs class folders or a label column")
    return np.asarray(labels)


def class_balanced(labels: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Draw M images: for each, a class with equal probability, and then one of its images.

    Class-balanced sampling (Kang et al., *Decoupling Representation and Classifier*, ICLR 2020, eq. 1 with q = 0): a
    pure function of seed and epoch.

    Args:
        labels: (M,) class ids.
        seed: The training's seed.
        epoch: Counted from 0.

    Returns:
        (M,) positions, with repetitions.
    """
    generator = np.random.default_rng([seed, epoch, _BALANCED])
    order = np.argsort(labels, kind="stable").astype(np.int64)
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    classes = generator.integers(len(sizes), size=len(labels))
    within = (generator.random(len(labels)) * sizes[classes]).astype(np.int64)
    drawn: NDArray[np.int64] = order[starts[classes] + within]
    return drawn


class Batches:
    """Views of labeled images with their labels. Order and views are functions of (seed, epoch, sample).

    Args:
        images: The images.
        views: Settings of the views.
        seed: The training's seed.
        batch_size: Images per batch.
        device: Device of the views.
        workers: Number of processes that decode large images.
        cache_gb: Disk space in GB for decoded large images; see `sdclr.loading.cache.cached`.
    """

    def __init__(  # noqa: PLR0917  the parts of a loader
        self,
        images: LabeledImages,
        views: ViewConfig,
        seed: int,
        batch_size: int,
        device: torch.device,
        workers: int,
        cache_gb: float = CACHE_GB,
    ) -> None:
        if images.pixels is None:
            side = short_side(views.image_size)
            kept = cached(images.source, side, limit_gb=cache_gb, writers=max(1, workers))
            images = replace(images, source=kept)
        self.images, self.views, self.seed = images, views, seed
        self.batch_size, self.device, self.workers = batch_size, device, workers
        self._natural = self._loader(images)
        self.steps_per_epoch = self._natural.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0, *, balanced: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Views (N, 3, S, S) and labels (N,) of the batches of an epoch, from step `start`.

        Args:
            epoch: Counted from 0.
            start: The first step.
            balanced: Draw all classes equally often, instead of each image once.
        """
        images, loader = self.images, self._natural
        if balanced:
            images = images.subset(class_balanced(images.labels, seed=self.seed, epoch=epoch))
            loader = self._loader(images)
        for batch in loader.epoch(epoch, start):
            yield batch.view1, torch.from_numpy(images.labels[batch.indices]).to(self.device)

    def _loader(self, images: LabeledImages) -> Loader:
        if images.pixels is not None:
            return ResidentLoader(
                images.pixels, self.views, seed=self.seed, batch_size=self.batch_size, views=1, channels_last=True
            )
        return StreamLoader(
            _Chosen(images.source, images.positions),
            self.views,
            seed=self.seed,
            batch_size=self.batch_size,
            workers=self.workers,
            views=1,
            device=self.device,
        )


class _Chosen(IndirectSource):
    """Images of a source at given positions, with repetitions."""

    def __init__(self, source: Source, positions: NDArray[np.int64]) -> None:
        self.name = source.name
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        self.ids: Sequence[str] = [source.ids[position] for position in positions.tolist()]
        self._source, self._positions = source, positions

    @property
    def trouble(self) -> str | None:
        """Reason why images are not cached, if the cache fails; see `sdclr.loading.cache.CachedSource`."""
        trouble: str | None = getattr(self._source, "trouble", None)
        return trouble

    def __len__(self) -> int:
        return len(self._positions)

    def place(self, index: int) -> tuple[Source, int]:
        return self._source, int(self._positions[index])


def _usable(source: Source, workers: int) -> tuple[NDArray[np.int64], Tensor | None, list[BadImage]]:
    """Positions (M,) of the readable images, their pixels if they are small, and the unreadable images."""
    if is_small(source):
        loaded = load_images(source, workers=workers)
        if not loaded.sizes_differ:
            return loaded.kept, loaded.images, loaded.bad
    bad = scan(source, workers=workers)
    left_out = {image.id for image in bad}
    kept = np.array([index for index, name in enumerate(source.ids) if name not in left_out], dtype=np.int64)
    return kept, None, bad
