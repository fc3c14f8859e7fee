"""Batches of view pairs: the order of the samples, and their two views.

The order is a pure function of (seed, epoch), and a view is a pure function of (seed, epoch, sample index, view). So a
run resumed in the middle of an epoch, with another number of workers, has the same batches as an uninterrupted run.
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
    """(N, 3, S, S) float32 in [0, 1]; the same tensor as `view1` if only one view is drawn."""
    keys: NDArray[np.int64]
    """(N,) keys of the random views: copy j (from 0) of a sample in an epoch has its index + j times the set's size."""


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

    With weights, samples occur more or less often; see `weighted_order`. With a shuffle buffer, blocks are in random
    order, and samples are shuffled among as many blocks as fill the buffer, so a slow disk reads each block once.
    Samples after the last whole batch are dropped. All ranks cut the same order, and each takes its slice of every
    batch.

    Args:
        n: Number of samples in the set.
        batch_size: Samples in a batch, over all ranks.
        seed: The run's seed, 0 or more.
        epoch: The epoch, 0 or more.
        rank: Rank of this process among `world` processes.
        world: Number of processes that share each batch.
        weights: (n,) relative frequency of each sample; by default each occurs once.
        blocks: (n,) number of the block of each sample, from 0; see `image_blocks`.
        shuffle_buffer: Minimum number of samples that are shuffled together; 0 shuffles all.
        draws: Number of samples of an epoch; by default n.

    Returns:
        (steps, batch_size // world) keys, steps = draws // batch_size: sample indices, and `index + j n` for copy j of
        a sample that occurs more than once.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be divided equally.
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
    """(n,) number of the buffer filling of each sample, with blocks in random order."""
    sizes = np.bincount(blocks)
    order = random.permutation(len(sizes))
    fillings = np.empty_like(order)
    fillings[order] = (np.cumsum(sizes[order]) - sizes[order]) // least
    return fillings[blocks]


def check_batch_size(n: int, batch_size: int, world: int) -> None:
    """Checks that a set has at least one batch, and that `world` processes can share a batch.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be divided equally.
    """
    if batch_size < 1 or batch_size % world:
        raise InputError(f"batch size {batch_size} cannot be shared by {world} processes: give a multiple of {world}")
    if n < batch_size:
        raise InputError(f"the set has {n} images, fewer than one batch of {batch_size}: lower --batch-size")


class Loader(Protocol):
    """The interface of a loader for training."""

    weights: NDArray[np.float64] | None
    """Relative frequency of each sample; with None each occurs once. A change takes effect in the next epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        ...

    @property
    def bad(self) -> Sequence[BadImage]:
        """Unreadable images in the batches so far, each listed once."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step `start` on: the same as in an uninterrupted epoch."""
        ...


class ResidentLoader:
    """Batches from a set held in memory as one tensor; views are drawn on its device.

    On a GPU the host only draws the parameters of a batch, starts their copy and queues the kernels. It does not wait,
    and is ahead of the device as long as this takes less time than a step on the device.

    Args:
        images: (N, 3, H, W) uint8, on the training device.
        config: Settings of the views.
        seed: The run's seed.
        batch_size: Samples in a batch, over all ranks.
        rank: Rank of this process among `world` processes.
        world: Number of processes that share each batch.
        views: 2 for pairs of views; 1 draws only the first view, and `Batch.view2` is the same tensor.
        channels_last: Use torch's memory layout of that name for the views.
        compile: Draw the views with `torch.compile`. See `sdclr.views.render.render`.
        draws: Number of samples of an epoch; by default the number of images.

    Raises:
        InputError: If the set is smaller than a batch, or a batch cannot be divided equally.
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
        chosen = to_device(batches, self._images.device)  # one copy per epoch instead of one per step
        for step in range(start, len(batches)):
            draw = partial(draw_views, self._config, seed=self._seed, epoch=epoch, indices=keys[step])
            drawn = [draw(view=view, height=size[0], width=size[1]) for view in range(self._views)]
            views = self._render(self._images.index_select(0, chosen[step]), drawn)
            yield Batch(batches[step], views[0], views[-1], keys[step])
