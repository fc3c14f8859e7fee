"""Base class of rebalancers that compute sampling weights from the features of the whole set every few epochs."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from sdclr.method.processes import world
from sdclr.method.rebalancing.rebalancer import Rebalancer


class SampleWeights(Rebalancer):
    """A sampling weight for each image, recomputed every few epochs.

    The training loop calls `due` at the start of an epoch. If it returns True, the loop computes the features of all
    images and calls `update` of the subclass.

    Args:
        samples: Images in the set, N.
        epochs: Epochs of the run.
        start: Share of the run before the first weights are computed.
        every: Epochs between two updates.
    """

    weights: Tensor
    """`(N,)` float64, with mean 1."""

    def __init__(self, samples: int, *, epochs: int, start: float, every: int) -> None:
        super().__init__()
        self.every = every
        self.first = math.ceil(start * epochs)
        self.epoch = 0
        self.register_buffer("weights", torch.ones(samples, dtype=torch.float64))

    def enter_epoch(self, epoch: int) -> None:
        """Remember the epoch."""
        self.epoch = epoch

    def due(self, epoch: int) -> bool:
        """Whether the weights have to be recomputed before the first step of this epoch."""
        since = epoch - self.first
        return since >= 0 and since % self.every == 0

    @property
    def sampling(self) -> Tensor | None:
        """Sampling weight of each image; None before the first weights.

        Until then a run equals one without this rebalancer.
        """
        return None if bool((self.weights == 1).all()) else self.weights

    def _adopt(self, weights: Tensor, *, shuffled_by: int | None) -> None:
        """Store new weights, the same on all processes. As a control, a seed permutes them at random."""
        if shuffled_by is not None:
            # The same permutation each time, because rare images stay rare, too.
            weights = weights[torch.randperm(len(weights), generator=torch.Generator().manual_seed(shuffled_by))]
        self.weights.copy_(weights)
        if world() > 1:
            dist.broadcast(self.weights, src=0)  # processors may round differently, and then draw different images
