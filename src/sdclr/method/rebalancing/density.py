"""Density: isolated images in the encoder's features are drawn more often.

Images of a rare kind have distant neighbors, because few images are similar; this needs no labels. The spread of the
distances depends on the data, so the setting is not the power of the distance but its effect: the effective number of
samples, as in Kish, *Survey Sampling* (1965).
"""

import math
from typing import Final

import torch
from torch import Tensor

from sdclr.method.rebalancing.config import MAX_POWER, DensityConfig, check_weights
from sdclr.method.rebalancing.weights import SampleWeights

_RANGE: Final = 1e3
"""Maximum ratio between a distance and the median, in both directions, so that powers stay finite."""

_HALVINGS: Final = 50


class Density(SampleWeights):
    """Weights that increase with the distance to an image's neighbors, recomputed every few epochs.

    Args:
        samples: Images in the set, N.
        epochs: Epochs of the run.
        config: Strength, interval and start.
    """

    def __init__(self, samples: int, *, epochs: int, config: DensityConfig | None = None) -> None:
        config = config or DensityConfig()
        super().__init__(samples, epochs=epochs, start=config.start, every=config.every)
        self.config = config

    @torch.no_grad()
    def update(self, distances: Tensor) -> None:
        """Recompute the weights. All processes call this together, with the same distances.

        Args:
            distances: `(N,)`, 0 or more: the distance of each image to its neighbors. The scale does not matter.

        Raises:
            ValueError: If their number is wrong, or they are not finite numbers of 0 or more.
        """
        if distances.shape != self.weights.shape:
            raise ValueError(f"{tuple(distances.shape)} distances for {len(self.weights)} images: give one for each")
        config = self.config
        weights = density_weights(
            distances.cpu(), power=config.power, effective=config.effective, cap=config.cap, floor=config.floor
        )
        self._adopt(weights, shuffled_by=config.seed if config.control == "shuffled" else None)


def density_weights(
    distances: Tensor,
    *,
    power: float | None = None,
    effective: float | None = None,
    cap: float = 10.0,
    floor: float = 0.1,
) -> Tensor:
    """Weights `w = clip(c d^α, floor, cap)`, where c makes their mean 1.

    α is `power`, or the value, up to `MAX_POWER`, for which the effective number is a share `effective` of all. This
    number falls as α rises: compared with a lower power, a higher one gives smaller weights up to some distance and
    larger ones beyond it, with equal means. If bounds or ties prevent this share, the highest power is used.

    Args:
        distances: `(N,)`, 0 or more, up to a factor. They are clipped to between a thousandth of the median and a
            thousand times the median.
        power: α, 0 or more.
        effective: Share in (0, 1]. Exactly one of the two is given.
        cap: Largest weight, above 1.
        floor: Smallest weight, in [0, 1).

    Returns:
        `(N,)` float64 on the same device.

    Raises:
        ValueError: If a number is invalid, or both or neither of power and share are given.
    """
    check_weights(power=power, effective=effective, cap=cap, floor=floor)
    if distances.ndim != 1 or not len(distances) or not bool((distances.isfinite() & (distances >= 0)).all()):
        raise ValueError("distances must be (N,) finite numbers of 0 or more, N at least 1")
    spread = _logarithms(distances.double())
    ordered = spread.sort().values
    if power is None:
        power = _power_for(ordered, 1.0 if effective is None else effective, cap=cap, floor=floor)
    return _weights(spread, power, _scale(ordered, power, cap=cap, floor=floor), cap=cap, floor=floor)


def effective_number(weights: Tensor) -> float:
    """Effective number of samples `(Σw)² / Σw²` as a share of all: 1 for equal weights, 1/N for a single weight."""
    return float(weights.sum().square() / (len(weights) * weights.square().sum()))


def _logarithms(distances: Tensor) -> Tensor:
    """Logarithms of the distances divided by their median, clipped to the range."""
    positive = distances[distances > 0]
    if not len(positive):
        return torch.zeros_like(distances)
    return (distances / positive.median()).clamp(1 / _RANGE, _RANGE).log()


def _power_for(ordered: Tensor, effective: float, *, cap: float, floor: float) -> float:
    """The smallest power whose effective number is at most the share, by bisection; otherwise the highest power."""

    def number(power: float) -> float:
        scale = _scale(ordered, power, cap=cap, floor=floor)
        return effective_number(_weights(ordered, power, scale, cap=cap, floor=floor))

    low, high = 0.0, MAX_POWER
    if effective == 1:
        return low
    if number(high) >= effective:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if number(middle) > effective else (low, middle)
    return high


def _scale(ordered: Tensor, power: float, *, cap: float, floor: float) -> float:
    """Logarithm of the factor that makes the weights' mean 1, for ascending logarithms of distances."""
    if power == 0:
        return 0.0
    count = len(ordered)
    powers = (power * ordered).exp()
    # In ascending order, so that small powers are not lost in large sums.
    sums = torch.cat([powers.new_zeros(1), powers.cumsum(0)])
    # At one end of the bisection all weights are at most 1, at the other at least 1.
    low, high = -power * float(ordered[-1]), -power * float(ordered[0])
    below, upto = 0, count
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        bounds = powers.new_tensor([(math.log(floor) if floor else -math.inf) - middle, math.log(cap) - middle])
        below, upto = torch.searchsorted(ordered, bounds / power).tolist()
        inner = float(sums[upto] - sums[below])
        total = floor * below + math.exp(middle) * inner + cap * (count - upto)
        low, high = (middle, high) if total < count else (low, middle)
    return (low + high) / 2


def _weights(spread: Tensor, power: float, scale: float, *, cap: float, floor: float) -> Tensor:
    return (power * spread + scale).exp().clamp(floor, cap)
