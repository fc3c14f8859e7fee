"""Batches of views from a set too large for memory: worker processes decode its images and draw their views."""

import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sdclr.data.sources import Source, image_blocks, shrunk_image
from sdclr.decoding.decode import BadImage
from sdclr.decoding.shrink import short_side
from sdclr.decoding.workers import WorkerBatches, shared_space, worker_space
from sdclr.errors import BadImageError, InputError
from sdclr.loading.batches import Batch, check_batch_size, epoch_batches
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render_cv import render_cv_views

_TOGETHER: Final = 32
"""Number of images whose views are drawn at once; they stay decoded in memory until then."""

_FLOATS: Final = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 256)
"""Float value of each uint8 pixel value."""

_AHEAD: Final = 2
"""Batches that a worker prepares ahead: one in transit while the next is made; more would only use memory."""


class StreamLoader:
    """Batches from a set too large for memory: worker processes decode its images and draw their views.

    An unreadable image is listed in `bad` and replaced by the next readable one. The replacement's views use the random
    numbers of the unreadable image, so they differ from its own views elsewhere in the batch.

    Batches do not depend on the number of workers. Only one epoch can be read at a time: starting another one ends it.

    Views have torch's memory layout `channels_last`, in which they are drawn.

    Crops are taken from images shrunk to twice the side of a view; see `sdclr.decoding.shrink`. With a source from
    `sdclr.loading.cache.cached`, each image is decoded and shrunk once, and the views are the same.

    Args:
        source: The images.
        config: Settings of the views.
        seed: The run's seed.
        batch_size: Samples in a batch, over all ranks.
        workers: Processes that decode; 0 decodes in this process.
        views: 2 for pairs of views; 1 draws only the first view, and `Batch.view2` is the same tensor.
        device: Device of the batches.
        rank: Rank of this process among `world` processes.
        world: Number of processes that share each batch.
        shuffle_buffer: Minimum number of images that are shuffled together; 0 shuffles all. See `epoch_batches`.
        draws: Number of samples of an epoch; by default the number of images.

    Raises:
        InputError: If the set is smaller than a batch, a batch cannot be divided equally, or a shuffle buffer is
            requested for images that are not stored in shards or row groups.
    """

    def __init__(
        self,
        source: Source,
        config: ViewConfig,
        *,
        seed: int,
        batch_size: int,
        workers: int = 0,
        views: Literal[1, 2] = 2,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        shuffle_buffer: int = 0,
        draws: int | None = None,
    ) -> None:
        draws = len(source) if draws is None else draws
        check_batch_size(draws, batch_size, world)
        blocks = image_blocks(source) if shuffle_buffer else None
        if shuffle_buffer and blocks is None:
            raise InputError(
                f"{source.name}: only tar shards and Parquet files are shuffled in blocks: leave out the buffer"
            )
        self._source = source
        self._to_floats = Floats(torch.device(device))
        self._slots = None
        if torch.device(device).type == "cpu":
            # One more slot than batches in transit: for the batch that is converted to floats.
            shape = (1 + _AHEAD * workers, views, batch_size // world, config.image_size, config.image_size, 3)
            self._slots = shared_space(*shape) if workers else torch.empty(shape, dtype=torch.uint8)
        slots = 1 if self._slots is None else len(self._slots)
        batches = partial(
            epoch_batches,
            len(source),
            batch_size,
            seed=seed,
            rank=rank,
            world=world,
            blocks=blocks,
            shuffle_buffer=shuffle_buffer,
            draws=draws,
        )
        self._schedule = _Schedule(batches, draws // batch_size, slots)
        drawn = _Views(source, config, seed, views, self._slots)
        self._loader: WorkerBatches[_Decoded] = WorkerBatches(
            drawn,
            workers=workers,
            collate_fn=_as_it_is,
            batch_bytes=0 if self._slots is not None else views * batch_size // world * 3 * config.image_size**2,
            prefetch_factor=_AHEAD,
            persistent=True,
            batch_sampler=self._schedule,  # passes its items to `__getitems__` unchanged
            pin_memory=torch.device(device).type == "cuda",
        )
        drawn.sends_shared = not self._loader.packed
        self._bad: dict[str, BadImage] = {}
        self._troubled = False

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """Sampling weight of each sample. See `Loader.weights`."""
        return self._schedule.weights

    @weights.setter
    def weights(self, values: NDArray[np.float64] | None) -> None:
        self._schedule.weights = values

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self._schedule)

    @property
    def bad(self) -> Sequence[BadImage]:
        """Unreadable images in the batches so far, each listed once."""
        return tuple(self._bad.values())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step `start` on. See `Loader.epoch`.

        Raises:
            InputError: If no image of the set can be decoded.
        """
        self._schedule.epoch, self._schedule.start = epoch, start
        for decoded in self._loader:
            self._bad.update((image.id, image) for image in decoded.bad)
            if not len(decoded.indices):
                raise InputError(f"{self._source.name}: none of its {len(self._source)} images can be decoded any more")
            if decoded.trouble is not None and not self._troubled:
                self._troubled = True
                warnings.warn(decoded.trouble, stacklevel=2)
            pixels = decoded.views if self._slots is None else self._slots[decoded.slot]
            assert pixels is not None  # noqa: S101  # for mypy: without slots, the batch has the views
            views = self._to_floats(pixels).permute(0, 1, 4, 2, 3)
            yield Batch(decoded.indices, views[0], views[-1], decoded.keys)


class Floats:
    """Converts uint8 views (0 to 255) on the host to float32 views (0 to 1) on the device.

    On a CPU the memory of a batch that is no longer in use is reused: allocating memory takes longer than filling it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spare: list[NDArray[np.float32]] = []

    def __call__(self, views: Tensor) -> Tensor:
        """Views (V, …) of any shape."""
        if self._device.type != "cpu":
            return views.to(self._device, non_blocking=True).to(torch.float32).div_(255)
        space = self._spare.pop() if self._spare else np.empty(0, dtype=np.float32)
        if space.shape != tuple(views.shape):
            space = np.empty(views.shape, dtype=np.float32)
        # A lookup table takes two thirds of the time of a division.
        rows = math.prod(views.shape[:2])
        cv2.LUT(views.numpy().reshape(rows, -1), _FLOATS, dst=space.reshape(rows, -1))
        lent = space.view()  # lives as long as the tensor and all tensors that share its memory
        weakref.finalize(lent, self._take_back, space).atexit = False
        return torch.from_numpy(lent)

    def _take_back(self, space: NDArray[np.float32]) -> None:
        self._spare[:] = [space]


class _Task(NamedTuple):
    """The description of a batch for a worker."""

    epoch: int
    keys: NDArray[np.int64]
    """(N,) keys of the samples."""
    slot: int
    """Slot for the views. When a batch is requested, the previous batch in its slot has already been used."""


class _Schedule:
    """The batches of one epoch."""

    def __init__(self, batches: Callable[..., NDArray[np.int64]], steps: int, slots: int) -> None:
        self._batches = batches
        self._steps = steps
        self._slots = slots
        self.epoch = 0
        self.start = 0
        self.weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[_Task]:
        epoch = self.epoch
        for number, keys in enumerate(self._batches(epoch=epoch, weights=self.weights)[self.start :]):
            yield _Task(epoch, keys, number % self._slots)


class _Decoded(NamedTuple):
    """A decoded batch, as sent by a worker."""

    indices: NDArray[np.int64]
    keys: NDArray[np.int64]
    views: Tensor | None
    """(V, N, S, S, 3) uint8; None if they are in a slot."""
    slot: int
    bad: list[BadImage]
    trouble: str | None
    """Reason why images are not cached, if it was not known at the start."""


class _Views(Dataset[_Decoded]):
    """One or two views of each sample in a batch.

    Args:
        source: The images.
        config: Settings of the views.
        seed: The run's seed.
        views: 1 or 2.
        slots: (slots, V, N, S, S, 3) uint8 memory for the views, shared by all processes; None allocates memory for
            each batch.
    """

    def __init__(self, source: Source, config: ViewConfig, seed: int, views: int, slots: Tensor | None) -> None:
        self._source = source
        self._config = config
        self._seed = seed
        self._views = views
        self._slots = slots
        self._side = short_side(config.image_size)
        self.sends_shared = True
        """Whether workers draw views into shared memory, from which they are sent."""

    def __getitems__(self, task: _Task) -> _Decoded:
        """Return the batch; it has no samples if no image of the set can be decoded."""
        count = len(task.keys)
        views = self._space(count) if self._slots is None else self._slots[task.slot]
        indices = np.empty(count, dtype=np.int64)
        bad: list[BadImage] = []
        for begin in range(0, count, _TOGETHER):
            part = task.keys[begin : begin + _TOGETHER]
            images = []
            for place, key in enumerate(part.tolist(), start=begin):
                found = self._first_good(key % len(self._source), bad)
                if found is None:
                    return _Decoded(indices[:0], indices[:0], None, task.slot, bad, None)
                indices[place], image = found
                images.append(image)
            self._draw(task.epoch, part, images, views[:, begin : begin + len(part)].numpy())
        trouble: str | None = getattr(self._source, "trouble", None)
        return _Decoded(indices, task.keys, views if self._slots is None else None, task.slot, bad, trouble)

    def _space(self, count: int) -> Tensor:
        """Allocate memory for the views of a batch; a worker can send its memory without a copy."""
        shape = (self._views, count, self._config.image_size, self._config.image_size, 3)
        sends = self.sends_shared and get_worker_info() is not None
        return worker_space(*shape) if sends else torch.empty(shape, dtype=torch.uint8)

    def _draw(
        self, epoch: int, keys: NDArray[np.int64], images: list[NDArray[np.uint8]], out: NDArray[np.uint8]
    ) -> None:
        """Draw the views of the samples into `out`. A sample's views do not depend on the other samples."""
        heights, widths = np.array([image.shape[:2] for image in images]).T
        draw = partial(draw_views, self._config, seed=self._seed, epoch=epoch, indices=keys)
        views = [draw(view=view, height=heights, width=widths) for view in range(self._views)]
        render_cv_views(images, views, out)

    def _first_good(self, index: int, bad: list[BadImage]) -> tuple[int, NDArray[np.uint8]] | None:
        """Return the first readable image from `index` on, and its position; unreadable ones are added to `bad`."""
        for step in range(len(self._source)):
            position = (index + step) % len(self._source)
            try:
                return position, shrunk_image(self._source, position, self._side)
            except BadImageError as error:
                bad.append(BadImage(error.image_id, error.reason, counted=True))
        return None


def _as_it_is(decoded: Any) -> Any:
    """Return the batch unchanged, because `_Views` has already collated it."""
    return decoded
