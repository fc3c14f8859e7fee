"""How much of the competitor is pruned, and when: schedules, and a ratio that finds itself.

A fixed ratio that suits one network and length of training costs accuracy in another. What the ratio does to a network
can be measured without labels: by how far pruning moves its outputs, the forgetting of Jiang et al. (ICML 2021, §4.7).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from sdclr.method.competitor import SelfCompetitor
from sdclr.method.rebalancing.rebalancer import of_all

Schedule = Literal["constant", "ramp", "cyclic"]


def scheduled_ratio(ratio: float, progress: float, schedule: Schedule = "constant", *, cycles: float = 5.0) -> float:
    """The pruning ratio at a point of the run.

    Args:
        ratio: The largest of the run.
        progress: Share of the run that is over, in [0, 1].
        schedule: `"constant"`; `"ramp"`, from 0 evenly up to `ratio`; or `"cyclic"`, from 0 to `ratio` and back along a
            cosine, several times.
        cycles: How often.
    """
    if schedule == "ramp":
        return ratio * progress
    if schedule == "cyclic":
        return ratio * (1 - math.cos(2 * math.pi * cycles * progress)) / 2
    return ratio


@torch.no_grad()
def forgetting(competitor: SelfCompetitor, images: Tensor) -> Tensor:
    """How far pruning moves each image, as a share of the distance between two images, `(N,)`.

    `(1 - cos(z_i, z'_i)) / mean_{j≠k}(1 - cos(z_j, z_k))`, z the network's outputs with all weights and z' with the
    kept ones: about 1 where nothing is left of what tells images apart, however alike the network finds them all.

    Both with the statistics of the batch and the network's own normalisation: that of the competitor comes to differ by
    itself, which is not what pruning does. Neither running statistics nor the mode of the network change.

    Args:
        competitor: Names the network and the masks.
        images: `(N, …)`, 2 or more.
    """
    network = competitor.network
    modes = [(module, module.training) for module in network.modules()]
    network.train()
    try:
        # Training mode moves running statistics in place: those of copies.
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        weights = dict(network.named_parameters())
        masked = {name: weights[name] * mask for name, mask in competitor.masks.items()}
        dense = functional_call(network, buffers, (images,))
        pruned = functional_call(network, buffers | masked, (images,))
    finally:
        for module, training in modes:
            module.training = training
    dense, pruned = (F.normalize(outputs.float(), dim=1) for outputs in (dense, pruned))
    apart = 1 - (dense.sum(0).square().sum() - len(dense)) / (len(dense) * (len(dense) - 1))
    forgotten: Tensor = (1 - (dense * pruned).sum(1)) / apart.clamp_min(1e-12)
    return forgotten


def find_ratio(
    competitor: SelfCompetitor, images: Tensor, target: float, *, highest: float = 0.9, trials: int = 6
) -> float:
    """The ratio at which pruning makes the network forget as much as asked: the median forgetting is `target`.

    Found by bisection, since more pruning forgets more. The competitor is left with the masks of the last trial: set
    the ratio and refresh. All processes find the same ratio, from the images of all.

    Args:
        competitor: The pruned twin.
        images: `(N, …)` of this process.
        target: The median over the images, in (0, 1).
        highest: The largest ratio to consider; the result if even that forgets less.
        trials: Halvings of [0, highest]: six find it to 0.9 / 64.

    Returns:
        The ratio, in [0, highest].
    """

    def forgets_more(ratio: float) -> bool:
        competitor.ratio = ratio
        competitor.refresh()
        return bool(of_all(forgetting(competitor, images)).median() > target)

    return bisect(forgets_more, 0.0, highest, trials)


def bisect(too_much: Callable[[float], bool], low: float, high: float, trials: int) -> float:
    """The largest of the values halved between `low` and `high` that is not too much; `high` if that is not."""
    if not too_much(high):
        return high
    for _ in range(trials):
        middle = (low + high) / 2
        low, high = (low, middle) if too_much(middle) else (middle, high)
    return low
