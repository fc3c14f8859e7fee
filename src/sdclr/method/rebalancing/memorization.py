"""Stronger augmentation for images that are hard to memorize.

BCL: Zhou et al., *Contrastive Learning with Boosted Memorization*, ICML 2022.
"""

import torch
from torch import Tensor

from sdclr.method.rebalancing.config import MemorizationConfig
from sdclr.method.rebalancing.rebalancer import Outputs, Rebalancer, mean_by_sample, of_all


class Memorization(Rebalancer):
    """Strength `w = z / (2 max|z|) + 1/2`, where z is the standardized moving average of each sample's loss.

    A sample's average starts with its first loss and then moves as `m' = β m + (1 - β) loss`. Strengths are computed at
    the start of each epoch. In the first epoch all are 0, as in the published code. Later, samples not seen yet (such
    as those of a dropped incomplete batch) get 1/2, and so do all samples if their losses are equal.

    Args:
        samples: Samples in the set.
        config: Momentum, and the control.
    """

    average: Tensor
    """`(N,)` the moving average of each sample's loss."""
    seen: Tensor
    """`(N,)` whether the sample has an average."""
    settled: Tensor
    """`(N,)` the strengths of this epoch."""

    def __init__(self, samples: int, *, config: MemorizationConfig | None = None) -> None:
        super().__init__()
        self.config = config or MemorizationConfig()
        self.register_buffer("average", torch.zeros(samples))
        self.register_buffer("seen", torch.zeros(samples, dtype=torch.bool))
        self.register_buffer("settled", torch.zeros(samples))

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Compute the strengths, from the second epoch on."""
        if epoch == 0:
            return
        if self.config.constant is not None:
            self.settled.fill_(self.config.constant)
            return
        average = self.average.double()  # double precision, so that the mean of equal losses is exact
        mean = (average * self.seen).sum() / self.seen.sum().clamp(min=1)
        # The standard deviation cancels out between z and max|z|.
        centered = (average - mean) * self.seen
        strengths = 0.5 + 0.5 * centered / centered.abs().max().clamp(min=torch.finfo(centered.dtype).tiny)
        self.settled.copy_(strengths * self.seen.any())  # zero if no loss is known

    @property
    def strength(self) -> Tensor:
        """The strengths of this epoch, `(N,)` in [0, 1]."""
        return self.settled

    @torch.no_grad()
    def _learn(self, losses: Tensor, samples: Tensor) -> None:
        which, loss = mean_by_sample(of_all(samples), of_all(losses.to(self.average.dtype)))
        moved = torch.lerp(loss, self.average[which], self.config.momentum)
        self.average[which] = torch.where(self.seen[which], moved, loss)
        self.seen[which] = True

    def forward(self, losses: Tensor, outputs: Outputs, samples: Tensor) -> Tensor:  # noqa: ARG002  # losses are enough
        """Record the losses and return them unchanged. See `Rebalancer.forward`."""
        self._learn(losses, samples)
        return losses
