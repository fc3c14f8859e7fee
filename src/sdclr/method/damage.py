"""How much of the competitor is pruned, and when: schedules, and a ratio that finds itself.

Damage makes the task harder, as stronger views do. That costs accuracy where a network is too small, or trained too
shortly, to know its images by heart, and can help where it does. Which of the two it is can be told without labels: by
how much better it tells apart the images that it trains on than others of the same collection.
"""

import torch
from torch import Tensor

from sdclr.method.rebalancing.rebalancer import Rebalancer


class AdaptiveRatio(Rebalancer):
    """A pruning ratio in proportion to the generalisation gap: what is learned by heart is what pruning is for.

    The gap is the mean loss of images held out less that of images trained on, in nats of NT-Xent and among the same
    candidates. A few images are held out for that, at random and for the whole run. Where there is no gap nothing is
    pruned, and with shared normalisation parameters the run is one without damage.

    Args:
        samples: Images in the set.
        gain: Ratio per nat of the gap.
        highest: The largest ratio.
        momentum: Of the moving average of the gap, a measurement.
        seed: Decides which images are held out.

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
        self, samples: int, *, gain: float = 2.0, highest: float = 0.9, momentum: float = 0.9, seed: int = 0
    ) -> None:
        super().__init__()
        count = min(256, samples // 10)
        if count < 8:
            raise ValueError(
                f"an adaptive ratio holds out a tenth of the images, for which {samples} are too few: give a number"
            )
        self.gain, self.highest, self.momentum = gain, highest, momentum
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(samples, generator=generator)
        self.register_buffer("held", torch.zeros(samples, dtype=torch.bool).index_fill_(0, chosen[:count], True))
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def chosen(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The images held out, and as many others, drawn anew in each epoch: `(n,)` positions each."""
        held = self.held.cpu().nonzero().flatten()
        others = (~self.held.cpu()).nonzero().flatten()
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(epoch))
        return held, others[order[: len(held)]]

    @torch.no_grad()
    def update(self, gap: float) -> None:
        """Take a measurement of the gap into account."""
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
        """What is held out never comes."""
        return (~self.held).double()
