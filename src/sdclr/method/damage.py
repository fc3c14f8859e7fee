"""The pruning ratio of the competitor over a run: an adaptive ratio.

Damage makes the task harder, as stronger views do. This costs accuracy if a network is too small, or trained too
briefly, to memorize its images; it can help if the network memorizes them. The generalization gap shows which case
holds, without labels: the difference between the loss of training images and of other images of the collection.
"""

import torch
from torch import Tensor

from sdclr.method.rebalancing.rebalancer import Rebalancer


class AdaptiveRatio(Rebalancer):
    """A pruning ratio in proportion to the generalization gap, that is, to memorization.

    The gap is the mean loss of held-out images minus that of training images, in nats of NT-Xent and among the same
    candidates. A few random images are held out for the whole run. Without a gap nothing is pruned, and with shared
    normalization parameters the run equals one without damage.

    Args:
        samples: Images in the set.
        gain: Ratio per nat of the gap.
        highest: The largest ratio.
        momentum: Momentum of the moving average of the gap, per measurement.
        seed: Seed of the held-out images.
        own: Number of own images, which come first in the set; only they are held out. By default all.

    Raises:
        ValueError: If the set is too small to hold images out.
    """

    held: Tensor
    """`(N,)` whether an image is held out."""
    average: Tensor
    """`()` the moving average of the gap, before `weight` is divided out."""
    weight: Tensor
    """`()` the sum of weights in it: 0 before the first measurement, near 1 after many."""

    def __init__(
        self,
        samples: int,
        *,
        gain: float = 2.0,
        highest: float = 0.9,
        momentum: float = 0.9,
        seed: int = 0,
        own: int | None = None,
    ) -> None:
        super().__init__()
        self.own = samples if own is None else own
        count = min(256, self.own // 10)
        if count < 8:
            raise ValueError(
                f"an adaptive ratio holds out a tenth of the images, for which {self.own} are too few: give a number"
            )
        self.gain, self.highest, self.momentum = gain, highest, momentum
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(self.own, generator=generator)
        self.register_buffer("held", torch.zeros(samples, dtype=torch.bool).index_fill_(0, chosen[:count], True))
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def chosen(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The held-out images, and the same number of random other own images in each epoch: `(n,)` positions each."""
        held = self.held.cpu().nonzero().flatten()
        others = (~self.held[: self.own].cpu()).nonzero().flatten()
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(epoch))
        return held, others[order[: len(held)]]

    @torch.no_grad()
    def update(self, gap: float) -> None:
        """Update the moving average of the gap with a measurement."""
        self.average.mul_(self.momentum).add_((1 - self.momentum) * gap)
        self.weight.mul_(self.momentum).add_(1 - self.momentum)

    @property
    def gap(self) -> float:
        """The gap by its moving average, in nats; 0 before the first measurement."""
        return float(self.average / self.weight) if self.weight > 0 else 0.0

    @property
    def ratio(self) -> float:
        """The share of weights to prune, in [0, highest]."""
        return min(self.highest, max(0.0, self.gain * self.gap))

    @property
    def sampling(self) -> Tensor:
        """Exclude held-out images from sampling."""
        return (~self.held).double()
