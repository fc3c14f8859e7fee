"""Batches of view pairs from a set too large for memory: worker processes decode its images and draw their views."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdclr.data.decode import BadImage
from sdclr.data.loading import Batch, check_batch_size, draw_pair, epoch_batches
from sdclr.data.render_cv import render_cv
from sdclr.data.sources import Source
from sdclr.data.views import ViewConfig
from sdclr.errors import BadImageError, InputError


class StreamLoader:
    """Batches from a set too large for memory: worker processes decode its images and draw their views.

    An image that cannot be decoded is replaced by the next one that can, and listed in `bad`. Its views are then drawn
    with the random numbers of the image it stands in for, so that it differs from itself elsewhere in the batch.

    Batches do not depend on the number of workers. One epoch is read at a time: starting another ends it.

    Args:
        source: The images.
        config: What the views are like.
        seed: The run's seed.
        batch_size: Samples in a batch, over all ranks.
        workers: Processes that decode; 0 decodes in this one.
        decode_side: A JPEG is decoded at reduced scale as long as its shorter side keeps this many pixels; by default
            twice the side of a view. Crops are drawn on the image as decoded.
        device: Where the batches go.
        rank: This process among `world`.
        world: Processes that share each batch.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be shared equally.
    """

    def __init__(
        self,
        source: Source,
        config: ViewConfig,
        *,
        seed: int,
        batch_size: int,
        workers: int = 0,
        decode_side: int | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_batch_size(len(source), batch_size, world)
        self._source = source
        self._device = torch.device(device)
        self._schedule = _Schedule(len(source), batch_size, seed=seed, rank=rank, world=world)
        self._loader: DataLoader[_Decoded] = DataLoader(
            _Pairs(source, config, seed, decode_side or 2 * config.image_size),
            batch_sampler=self._schedule,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            persistent_workers=workers > 0,
            pin_memory=self._device.type == "cuda",
        )
        self._bad: dict[str, BadImage] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self._schedule)

    @property
    def bad(self) -> Sequence[BadImage]:
        """Images that could not be decoded in the batches given so far, each once."""
        return tuple(self._bad.values())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step `start` on. See `Loader.epoch`.

        Raises:
            InputError: If no image of the set can be decoded.
        """
        self._schedule.epoch, self._schedule.start = epoch, start
        for decoded in self._loader:
            self._bad.update((image.id, image) for image in decoded.bad)
            if decoded.views is None:
                raise InputError(f"{self._source.name}: none of its {len(self._source)} images can be decoded any more")
            views = decoded.views.to(self._device, non_blocking=True).permute(0, 1, 4, 2, 3)
            view1, view2 = views.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
            yield Batch(decoded.indices, view1, view2)


class _Schedule:
    """The batches of one epoch as lists of (epoch, sample index), which is all that a worker needs to know."""

    def __init__(self, n: int, batch_size: int, *, seed: int, rank: int, world: int) -> None:
        self._n = n
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world = world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self._n // self._batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        batches = epoch_batches(
            self._n, self._batch_size, seed=self._seed, epoch=epoch, rank=self._rank, world=self._world
        )
        for indices in batches[self.start :].tolist():
            yield [(epoch, index) for index in indices]


class _Decoded(NamedTuple):
    """A batch on its way from a worker."""

    indices: NDArray[np.int64]
    views: Tensor | None
    """(2, N, S, S, 3) uint8; None if no image of the set can be decoded."""
    bad: list[BadImage]


class _Pairs(Dataset[_Decoded]):
    """Two views of each of the samples that a batch names."""

    def __init__(self, source: Source, config: ViewConfig, seed: int, decode_side: int) -> None:
        self._source = source
        self._config = config
        self._seed = seed
        self._decode_side = decode_side

    def __getitems__(self, keys: list[tuple[int, int]]) -> _Decoded:
        side = self._config.image_size
        views = torch.empty(2, len(keys), side, side, 3, dtype=torch.uint8)
        indices = np.empty(len(keys), dtype=np.int64)
        bad: list[BadImage] = []
        for place, (epoch, index) in enumerate(keys):
            found = self._first_good(index, bad)
            if found is None:
                return _Decoded(indices[:0], None, bad)
            indices[place], image = found
            size = (image.shape[0], image.shape[1])
            pair = draw_pair(self._config, np.array([index]), size, seed=self._seed, epoch=epoch)
            for view, params in enumerate(pair):
                views[view, place] = torch.from_numpy(render_cv(image, params, side))
        return _Decoded(indices, views, bad)

    def _first_good(self, index: int, bad: list[BadImage]) -> tuple[int, NDArray[np.uint8]] | None:
        """The first image from `index` on that can be decoded, and its position; what cannot is added to `bad`."""
        for step in range(len(self._source)):
            position = (index + step) % len(self._source)
            try:
                return position, self._source.image(position, min_side=self._decode_side)
            except BadImageError as error:
                bad.append(BadImage(error.image_id, error.reason, counted=True))
        return None


def _as_it_is(decoded: Any) -> Any:
    """Collates what `_Pairs` has collated already."""
    return decoded


def _one_thread(_worker: int) -> None:
    """Keeps OpenCV, as torch does with itself, from using every core in every worker.

    0 means no threads at all. 1 would mean to stop those that OpenCV has started, and to wait for threads that a
    forked process does not have.
    """
    cv2.setNumThreads(0)
