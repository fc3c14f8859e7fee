"""Settings of the rebalancers. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Final, Literal

MAX_POWER: Final = 64.0
"""Where distances differ so little that a higher power were needed, they tell noise."""


@dataclass(frozen=True, kw_only=True)
class DensityConfig:
    """Images that have few others beside them in the encoder's features come more often."""

    effective: float | None = 0.5
    """Effective number of images as a share of all: 1 weighs all alike, less is stronger. None if the power is set."""
    power: float | None = None
    """Power of the distance, instead of one that gives the effective number; 0 weighs all alike."""
    cap: float = 10.0
    """Largest weight, as a multiple of the mean: what junk and outliers may get."""
    floor: float = 0.1
    """Smallest weight, as a multiple of the mean: what copies of an image still get."""
    neighbours: int = 10
    """Neighbors whose mean distance counts."""
    start: float = 0.25
    """Share of the run before which all images come alike; features must have formed."""
    full: float | None = None
    """Share of the run at which the weights reach full strength, linearly from the start; by default at once."""
    every: int = 10
    """Epochs between two looks at the features. One look costs about a sixth of an epoch."""
    exact: int = 1_000_000
    """Neighbors are sought among all images up to so many, and beyond among so many drawn at random."""
    weigh: Literal["sampling", "loss"] = "sampling"
    """Draw images as often as their weights say, or draw all alike and weigh their losses."""
    control: Literal["none", "shuffled", "clusters"] = "none"
    """Two controls: the same weights dealt out to images at random; weights by the inverse size of k-means clusters
    instead of distances."""
    clusters: int | None = None
    """Clusters of that control; by default the root of the number of images."""
    seed: int = 0
    """Decides how the controls deal out weights and where clusters start."""

    def __post_init__(self) -> None:
        check_weights(power=self.power, effective=self.effective, cap=self.cap, floor=self.floor)
        if not 0 <= self.start < 1:
            raise ValueError(f"density weights start at a share of the run in [0, 1), not at {self.start}")
        if self.full is not None and not self.start <= self.full <= 1:
            raise ValueError(f"full strength is reached between the start, {self.start}, and 1, not at {self.full}")
        if min(self.every, self.neighbours, self.clusters or 1) < 1 or self.exact < 2:
            raise ValueError("every, neighbours and clusters are 1 or more, and exact is 2 or more")
        if self.seed < 0:
            raise ValueError(f"the seed of density weights is 0 or more, not {self.seed}")


def check_weights(*, power: float | None, effective: float | None, cap: float, floor: float) -> None:
    """Check the settings that density weights are made by.

    Raises:
        ValueError: A setting is outside its range.
    """
    if (power is None) == (effective is None):
        raise ValueError(f"give either the power or the effective number, not {power} and {effective}")
    if effective is not None and not 0 < effective <= 1:
        raise ValueError(f"the effective number is a share of all images in (0, 1], not {effective}")
    if power is not None and not 0 <= power <= MAX_POWER:
        raise ValueError(f"the power of the distance lies in [0, {MAX_POWER:g}], not at {power}")
    if not 0 <= floor < 1 < cap < math.inf:
        raise ValueError(f"a weight lies between 0 <= floor < 1 < cap, not {floor} and {cap}")


@dataclass(frozen=True, kw_only=True)
class HarmonizationConfig:
    """Clusters as large as the data has them, spread evenly over the sphere. Defaults as published for CIFAR-100-LT."""

    clusters: int = 100
    """Fixed directions, or clusters: more than there are classes does no harm."""
    epsilon: float = 0.05
    """Softness of the targets that the batch is shared out to: near 0, each image gets one cluster."""
    iterations: int = 300
    """Sinkhorn iterations for the targets of a batch."""
    temperature: float = 0.1
    """Temperature of the predictions that are compared with the targets."""
    weight: float = 1.0
    """Weight of the term beside the framework's loss once it has its full strength."""
    warmup: float = 0.5
    """Share of the run without the term, in which clusters settle: published 500 of 1000 epochs."""
    ramp: float = 0.01
    """Share of the run in which the weight then grows to its full strength: published 10 of 1000 epochs."""
    refresh: float = 0.02
    """Share of the run after which the clusters' sizes are taken anew: published 20 of 1000 epochs."""
    momentum: float = 0.999
    """Of each image's running mean of logits, a visit, after the warm-up; high, so that sizes hardly move any more."""
    warmup_momentum: float = 0.9
    """Of the same mean during the warm-up."""

    def __post_init__(self) -> None:
        if self.clusters < 2 or self.iterations < 1:
            raise ValueError(
                f"harmonisation needs 2 or more clusters and 1 or more iterations, not {self.clusters} and "
                f"{self.iterations}"
            )
        if not self.epsilon > 0 or not self.temperature > 0:
            raise ValueError(f"epsilon and temperature must be positive, not {self.epsilon} and {self.temperature}")
        if not self.weight >= 0:
            raise ValueError(f"the weight of harmonisation is 0 or more, not {self.weight}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"the warm-up is a share of the run in [0, 1), not {self.warmup}: 0.5 is its first half")
        if not 0 <= self.ramp <= 1 or not 0 <= self.refresh <= 1:
            raise ValueError(f"ramp and refresh are shares of the run in [0, 1], not {self.ramp} and {self.refresh}")
        if not 0 <= self.momentum < 1 or not 0 <= self.warmup_momentum < 1:
            raise ValueError(f"momenta lie in [0, 1), not {self.momentum} and {self.warmup_momentum}")


@dataclass(frozen=True, kw_only=True)
class IndividualTemperatureConfig:
    """A temperature of its own for each image: high where many others look like it. Defaults as published for CIFAR."""

    initial: float = 0.1
    """Temperature that every image starts with. It also scales the loss, so that its gradients are those of NT-Xent."""
    low: float = 0.05
    """Lowest temperature."""
    high: float = 1.0
    """Highest temperature."""
    rho: float = 0.4
    """How far an image's weights of its negatives may be from uniform: the higher, the lower the temperatures."""
    rate: float = 0.03
    """Step size of the temperatures."""
    gradient_rate: float = 0.5
    """Weight of the newest gradient of a temperature in its running mean; 1 keeps none."""
    estimate_rate: float = 0.8
    """Weight of the batch in an image's running mean over negatives; 1 takes the batch alone."""
    clip: float = 3.0
    """Largest gradient of a temperature."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.initial <= self.high:
            raise ValueError(
                f"temperatures start between their bounds, 0 < low <= initial <= high, not {self.low}, {self.initial} "
                f"and {self.high}"
            )
        if not self.rho >= 0 or not self.rate >= 0 or not self.clip > 0:
            raise ValueError(
                f"rho and rate are 0 or more and clip is positive, not {self.rho}, {self.rate} and {self.clip}"
            )
        if not 0 < self.gradient_rate <= 1 or not 0 < self.estimate_rate <= 1:
            raise ValueError(
                f"the rates of running means lie in (0, 1], not {self.gradient_rate} and {self.estimate_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class MemorizationConfig:
    """How a sample's past losses decide how strongly its views are changed."""

    momentum: float = 0.97
    """Share of the old in the moving average of each sample's loss."""
    constant: float | None = None
    """As a control, the strength that every sample gets whatever its loss; None for what the losses say."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the momentum of a sample's loss lies in [0, 1), not {self.momentum}")
        if self.constant is not None and not 0 <= self.constant <= 1:
            raise ValueError(f"a strength lies in [0, 1], not {self.constant}")


@dataclass(frozen=True, kw_only=True)
class TemperatureConfig:
    """A temperature that swings between telling groups apart (high) and telling images apart (low)."""

    low: float = 0.1
    """Lowest temperature."""
    high: float = 1.0
    """Highest temperature, which a run starts with."""
    periods: float = 5.0
    """Swings in a run: the paper's period is 400 of 2000 epochs."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"a temperature swings between 0 < low <= high, not {self.low} and {self.high}")
        if not self.periods > 0:
            raise ValueError(f"a run has more than 0 periods of the temperature, not {self.periods}")
