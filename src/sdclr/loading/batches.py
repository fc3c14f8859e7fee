"""Batches of view pairs: which samples, in which order, and their two views.

The order is a pure function of (seed, epoch) and a view one of (seed, epoch, sample index, view), so that a run resumed
in the middle of an epoch, on another number of workers, sees what an uninterrupted run sees.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdclr.decoding.decode import BadImage
from sdclr.errors import InputError
from sdclr.loading.weighting import weighted_order
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render import render_views, to_device


class Batch(NamedTuple):
    """Two views of each of N samples."""

    indices: NDArray[np.int64]
    """(N,) positions of the samples in the loader's set."""
    view1: Tensor
    """(N, 3, S, S) float32 in [0, 1]."""
    view2: Tensor
    """(N, 3, S, S) float32 in [0, 1]; the same tensor as `view1` where one view is drawn."""
    keys: NDArray[np.int64]
    """(N,) what views were drawn by: copy j (from 0) of a sample in an epoch has its index + j times their number."""


def epoch_batches(
    n: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    weights: NDArray[np.float64] | None = None,
    blocks: NDArray[np.int64] | None = None,
    shuffle_buffer: int = 0,
    draws: int | None = None,
) -> NDArray[np.int64]:
    """One rank's share of the batches of an epoch: a permutation of the samples, cut into batches.

    With weights, samples come more or less often; see `weighted_order`. With a shuffle buffer, blocks come in a random
    order, and samples are shuffled among as many blocks as fill the buffer: a slow disk then reads each block once.
    What is left over after the last whole batch is
    dropped. All ranks cut the same order, and each takes its slice of every batch.

    Args:
        n: Samples in the set.
        batch_size: Samples in a batch, over all ranks.
        seed: The run's seed, 0 or more.
        epoch: The epoch, 0 or more.
        rank: This process among `world`.
        world: Processes that share each batch.
        weights: (n,) how often each sample is to come, up to a factor; by default all once.
        blocks: (n,) the block of each sample, from 0; see `image_blocks`.
        shuffle_buffer: Samples that are shuffled together, at least; 0 shuffles all.
        draws: Samples of an epoch; by default n.

    Returns:
        (steps, batch_size // world) keys, steps = draws // batch_size: sample indices, and `index + j n` for copy j of
        a sample that comes more than once.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be shared equally.
    """
    draws = n if draws is None else draws
    check_batch_size(draws, batch_size, world)
    key = np.array([seed, epoch], dtype=np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    order = random.permutation(n)[:draws] if weights is None else weighted_order(weights, random, draws)
    if blocks is not None and shuffle_buffer:
        order = order[np.argsort(_buffer_of(blocks, shuffle_buffer, random)[order % n], kind="stable")]
    steps = draws // batch_size
    shares = order[: steps * batch_size].reshape(steps, world, batch_size // world)
    return shares[:, rank].astype(np.int64)


def _buffer_of(blocks: NDArray[np.int64], least: int, random: np.random.Generator) -> NDArray[np.int64]:
    """(n,) which filling of the buffer each sample belongs to, when blocks come in a random order."""
    sizes = np.bincount(blocks)
    order = random.permutation(len(sizes))
    fillings = np.empty_like(order)
    fillings[order] = (np.cumsum(sizes[order]) - sizes[order]) // least
    return fillings[blocks]


def check_batch_size(n: int, batch_size: int, world: int) -> None:
    """Refuses batches that cannot be cut from a set, or not be shared by `world` processes.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be shared equally.
    """
    if batch_size < 1 or batch_size % world:
        raise InputError(f"batch size {batch_size} cannot be shared by {world} processes: give a multiple of {world}")
    if n < batch_size:
        raise InputError(f"the set has {n} images, fewer than one batch of {batch_size}: lower --batch-size")


class Loader(Protocol):
    """What training needs of a loader."""

    weights: NDArray[np.float64] | None
    """How often each sample is to come, up to a factor; None for all once. A change holds from the next epoch on."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        ...

    @property
    def bad(self) -> Sequence[BadImage]:
        """Images that could not be decoded in the batches given so far, each once."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step `start` on: the same as an uninterrupted epoch gives from there."""
        ...


class ResidentLoader:
    """Batches from a set that lies in memory as one tensor; views are drawn on its device.

    On a GPU the host only draws the parameters of a batch, starts copying them and queues the kernels: it waits for
    nothing, and is ahead of the device as long as it takes less time for that than the device for a step.

    Args:
        images: (N, 3, H, W) uint8, on the device that trains.
        config: What the views are like.
        seed: The run's seed.
        batch_size: Samples in a batch, over all ranks.
        rank: This process among `world`.
        world: Processes that share each batch.
        views: 2 for pairs of views; 1 draws the first alone, and `Batch.view2` is the same tensor.
        channels_last: Give the views torch's memory layout of that name.
        compile: Draw the views by `torch.compile`. See `sdclr.views.render.render`.
        draws: Samples of an epoch; by default as many as there are.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be shared equally.
    """

    def __init__(
        self,
        images: Tensor,
        config: ViewConfig,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        views: Literal[1, 2] = 2,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002  # torch's word
        draws: int | None = None,
    ) -> None:
        self._draws = len(images) if draws is None else draws
        check_batch_size(self._draws, batch_size, world)
        self._images = images
        self._config = config
        self._seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._views = views
        self._render = partial(render_views, image_size=config.image_size, channels_last=channels_last, compile=compile)
        self.weights: NDArray[np.float64] | None = None
        self.bad: Sequence[BadImage] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self._draws // self._batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step `start` on. See `Loader.epoch`."""
        size = (self._images.shape[2], self._images.shape[3])
        keys = epoch_batches(
            len(self._images),
            self._batch_size,
            seed=self._seed,
            epoch=epoch,
            rank=self._rank,
            world=self._world,
            weights=self.weights,
            draws=self._draws,
        )
        batches = keys % len(self._images)
        chosen = to_device(batches, self._images.device)  # one copy an epoch instead of one a step
        for step in range(start, len(batches)):
            draw = partial(draw_views, self._config, seed=self._seed, epoch=epoch, indices=keys[step])
            drawn = [draw(view=view, height=size[0], width=size[1]) for view in range(self._views)]
            views = self._render(self._images.index_select(0, chosen[step]), drawn)
            yield Batch(batches[step], views[0], views[-1], keys[step])
