"""Settings of the frameworks. Imports no torch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig:
    """Weights of the loss of Barlow Twins."""

    off_diagonal: float = 0.0051
    """λ: weight of the correlation between different features."""
    scale: float = 0.024
    """Factor of the whole loss, which sets the size of a step."""

    def __post_init__(self) -> None:
        _check_loss(self.scale, off_diagonal=self.off_diagonal)


@dataclass(frozen=True, kw_only=True)
class BYOLConfig:
    """The predictor and the momentum network of BYOL."""

    momentum: float = 0.996
    """Initial momentum of the moving average of the weights; it rises to 1 along a cosine."""
    hidden: int = 4096
    """Hidden dimension of the predictor."""

    def __post_init__(self) -> None:
        _check_momentum(self.momentum)
        _check_positive(hidden=self.hidden)


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """The queue and the momentum network of MoCo v2, with its authors' settings for ImageNet."""

    queue: int = 65536
    """Length of the queue of negatives; 4096 for CIFAR."""
    momentum: float = 0.999
    """Momentum of the moving average of the weights; 0.99 for runs of few steps, such as on CIFAR."""
    symmetric: bool = True
    """Use both views as queries. False uses only the first, as first published, and has no branch to damage."""

    def __post_init__(self) -> None:
        _check_momentum(self.momentum)
        _check_positive(queue=self.queue)


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config:
    """The predictor and the momentum network of MoCo v3."""

    momentum: float = 0.99
    """Initial momentum of the moving average of the weights; it rises to 1 along a cosine."""
    hidden: int = 4096
    """Hidden dimension of the predictor."""

    def __post_init__(self) -> None:
        _check_momentum(self.momentum)
        _check_positive(hidden=self.hidden)


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig:
    """The predictor of SimSiam."""

    hidden: int = 512
    """Hidden dimension of the predictor: a bottleneck, a quarter of the projection's dimension."""

    def __post_init__(self) -> None:
        _check_positive(hidden=self.hidden)


@dataclass(frozen=True, kw_only=True)
class VICRegConfig:
    """Weights of the loss of VICReg."""

    invariance: float = 25.0
    """λ: weight of the distance between the views' outputs."""
    variance: float = 25.0
    """μ: weight of the hinge on the standard deviation of the features, at 1."""
    covariance: float = 1.0
    """ν: weight of the covariance between different features."""
    scale: float = 1.0
    """Factor of the whole loss, which sets the size of a step."""

    def __post_init__(self) -> None:
        _check_loss(self.scale, invariance=self.invariance, variance=self.variance, covariance=self.covariance)


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise ValueError(f"the momentum of a moving average lies in [0, 1], not {momentum}")


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not 1 <= number < 2**63:
            raise ValueError(f"{name} is {number}: give 1 or more")


def _check_loss(scale: float, **weights: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}: give a finite number above 0")
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} is {weight}: give a finite weight of 0 or more")
