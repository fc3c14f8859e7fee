"""Settings of the rebalancers. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Final, Literal

MAX_POWER: Final = 64.0
"""Largest power. Distances that would need a higher one differ only by noise."""


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Sampling that is uniform over a tree of clusters in the encoder's features instead of over images."""

    share: float = 0.1
    """Size of the curated subset as a share of all images: 1 gives equal weights, less is stronger. No image is drawn
    more than 1 / share times as often as the mean."""
    levels: int = 2
    """Levels of clusters: 2 makes N^(2/3) clusters of images and N^(1/3) clusters of these, N being 50,000 at most;
    1 makes a flat clustering of √N, as a control for the tree."""
    start: float = 0.25
    """Share of the run with uniform sampling at the start, while features form."""
    every: int = 10
    """Epochs between two updates of the clusters."""
    control: Literal["none", "shuffled"] = "none"
    """As a control, randomly permuted weights."""
    seed: int = 0
    """Seed of the clusters and of the permutation of the control."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a curated subset holds a share of all images in (0, 1], not {self.share}")
        if not 1 <= self.levels <= 8:
            raise ValueError(f"a tree of clusters has 1 to 8 levels, not {self.levels}")
        if not 0 <= self.start < 1:
            raise ValueError(f"curation starts at a share of the run in [0, 1), not at {self.start}")
        if self.every < 1 or self.seed < 0:
            raise ValueError(f"every is 1 or more and the seed 0 or more, not {self.every} and {self.seed}")


@dataclass(frozen=True, kw_only=True)
class DensityConfig:
    """Draws images more often if few others are near them in the encoder's features."""

    effective: float | None = 0.5
    """Effective share of all images: 1 gives equal weights, less is stronger. None if the power is set."""
    power: float | None = None
    """Power of the distance, instead of one that gives the effective number; 0 gives equal weights."""
    cap: float = 10.0
    """Largest weight, as a multiple of the mean; limits junk and outliers."""
    floor: float = 0.1
    """Smallest weight, as a multiple of the mean, such as for copies of an image."""
    neighbors: int = 10
    """Number of neighbors for the mean distance."""
    start: float = 0.25
    """Share of the run with uniform sampling at the start, while features form."""
    every: int = 10
    """Epochs between two estimates. One estimate costs about a sixth of an epoch."""
    exact: int = 1_000_000
    """Largest number of images for an exact neighbor search; larger sets search in a random sample of this size."""
    control: Literal["none", "shuffled", "clusters"] = "none"
    """Two controls: randomly permuted weights; weights by the inverse size of k-means clusters instead of distances."""
    clusters: int | None = None
    """Clusters of that control; by default the square root of the number of images."""
    seed: int = 0
    """Seed of the permutation and of the clusters of the controls."""

    def __post_init__(self) -> None:
        check_weights(power=self.power, effective=self.effective, cap=self.cap, floor=self.floor)
        if not 0 <= self.start < 1:
            raise ValueError(f"density weights start at a share of the run in [0, 1), not at {self.start}")
        if min(self.every, self.neighbors, self.clusters or 1) < 1 or self.exact < 2:
            raise ValueError("every, neighbors and clusters are 1 or more, and exact is 2 or more")
        if self.seed < 0:
            raise ValueError(f"the seed of density weights is 0 or more, not {self.seed}")


def check_weights(*, power: float | None, effective: float | None, cap: float, floor: float) -> None:
    """Check the settings of density weights.

    Raises:
        ValueError: If a setting is outside its range.
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
    """Clusters with the sizes of the data, spread evenly over the sphere. Defaults as published for CIFAR-100-LT."""

    clusters: int = 100
    """Fixed directions, or clusters; more than the number of classes does no harm."""
    epsilon: float = 0.05
    """Softness of the targets of the batch: near 0, each image gets one cluster."""
    iterations: int = 300
    """Sinkhorn iterations for the targets of a batch."""
    temperature: float = 0.1
    """Temperature of the predictions that are compared with the targets."""
    weight: float = 1.0
    """Full weight of the term relative to the framework's loss."""
    warmup: float = 0.5
    """Share of the run without the term, in which clusters settle: published 500 of 1000 epochs."""
    ramp: float = 0.01
    """Share of the run in which the weight then grows to its full strength: published 10 of 1000 epochs."""
    refresh: float = 0.02
    """Share of the run between updates of the clusters' sizes: published 20 of 1000 epochs."""
    momentum: float = 0.999
    """Momentum per visit of an image's running mean of logits after the warm-up; high, so that sizes hardly change."""
    warmup_momentum: float = 0.9
    """Momentum of the same mean during the warm-up."""

    def __post_init__(self) -> None:
        if self.clusters < 2 or self.iterations < 1:
            raise ValueError(
                f"harmonization needs 2 or more clusters and 1 or more iterations, not {self.clusters} and "
                f"{self.iterations}"
            )
        if not self.epsilon > 0 or not self.temperature > 0:
            raise ValueError(f"epsilon and temperature must be positive, not {self.epsilon} and {self.temperature}")
        if not self.weight >= 0:
            raise ValueError(f"the weight of harmonization is 0 or more, not {self.weight}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"the warm-up is a share of the run in [0, 1), not {self.warmup}: 0.5 is its first half")
        if not 0 <= self.ramp <= 1 or not 0 <= self.refresh <= 1:
            raise ValueError(f"ramp and refresh are shares of the run in [0, 1], not {self.ramp} and {self.refresh}")
        if not 0 <= self.momentum < 1 or not 0 <= self.warmup_momentum < 1:
            raise ValueError(f"momenta lie in [0, 1), not {self.momentum} and {self.warmup_momentum}")


@dataclass(frozen=True, kw_only=True)
class IndividualTemperatureConfig:
    """A separate temperature for each image: high if many others look like it. Defaults as published for CIFAR."""

    initial: float = 0.1
    """Initial temperature of every image. It also scales the loss, so that its gradients are those of NT-Xent."""
    low: float = 0.05
    """Lowest temperature."""
    high: float = 1.0
    """Highest temperature."""
    rho: float = 0.4
    """How far an image's weights of its negatives may be from uniform: the higher, the lower the temperatures."""
    rate: float = 0.03
    """Step size of the temperatures."""
    gradient_rate: float = 0.5
    """Weight of the newest gradient of a temperature in its running mean; 1 ignores older ones."""
    estimate_rate: float = 0.8
    """Weight of the batch in an image's running mean over negatives; 1 uses only the batch."""
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
class KoLeoConfig:
    """A term that pushes each output away from its nearest neighbor. Default as published for DINOv2."""

    weight: float = 0.1
    """Weight of the term relative to the framework's loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"the weight of KoLeo is 0 or more, not {self.weight}")


@dataclass(frozen=True, kw_only=True)
class MemorizationConfig:
    """How a sample's past losses determine the strength of its augmentation."""

    momentum: float = 0.97
    """Momentum of the moving average of each sample's loss."""
    constant: float | None = None
    """As a control, a constant strength for every sample; None for a strength by the losses."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the momentum of a sample's loss lies in [0, 1), not {self.momentum}")
        if self.constant is not None and not 0 <= self.constant <= 1:
            raise ValueError(f"a strength lies in [0, 1], not {self.constant}")


@dataclass(frozen=True, kw_only=True)
class OutsideConfig:
    """Outside images near the rare clusters of own images. Defaults as published for CIFAR-100-LT."""

    budget: float = 1.0
    """Outside images trained on at a time, as a multiple of the own images: published 10,000 for about 11,000."""
    top: float = 0.02
    """Number of nearest negatives that tailness scores sum over, as a share of the batch: published 10 of 512."""
    momentum: float = 0.97
    """Momentum of the moving average of each image's tailness score."""
    clusters: int = 10
    """Clusters of the own images."""
    temperature: float = 1.0
    """Temperature of the budgets: below 1, rare clusters get more of the outside images."""
    alpha: float = 0.2
    """Weight of the term that separates own images from outside ones, relative to the framework's loss."""
    start: float = 0.05
    """Share of the run with own images alone at the start: published 100 of 2000 epochs."""
    every: int = 25
    """Epochs between two choices of outside images."""
    control: Literal["none", "random"] = "none"
    """As a control, the same number of outside images chosen at random."""
    seed: int = 0
    """Seed of the clusters and of the control's choices."""

    def __post_init__(self) -> None:
        if not 0 < self.budget < math.inf:
            raise ValueError(f"the budget of outside images is a positive multiple of own images, not {self.budget}")
        if not 0 < self.top <= 1:
            raise ValueError(f"tailness scores sum over a share of a batch in (0, 1], not {self.top}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the momentum of a tailness score lies in [0, 1), not {self.momentum}")
        if not 0 < self.temperature < math.inf or not 0 <= self.alpha < math.inf:
            raise ValueError(
                f"the temperature of the budgets is positive and alpha 0 or more, not {self.temperature} and "
                f"{self.alpha}"
            )
        if not 0 <= self.start < 1:
            raise ValueError(f"outside images start at a share of the run in [0, 1), not at {self.start}")
        if min(self.clusters, self.every) < 1 or self.seed < 0:
            raise ValueError(
                f"clusters and every are 1 or more and the seed 0 or more, not {self.clusters}, {self.every} and "
                f"{self.seed}"
            )


@dataclass(frozen=True, kw_only=True)
class TemperatureConfig:
    """A temperature that oscillates between separating groups (high) and separating images (low)."""

    low: float = 0.1
    """Lowest temperature."""
    high: float = 1.0
    """Highest temperature, at the start of a run."""
    periods: float = 5.0
    """Periods in a run: the paper's period is 400 of 2000 epochs."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"a temperature swings between 0 < low <= high, not {self.low} and {self.high}")
        if not self.periods > 0:
            raise ValueError(f"a run has more than 0 periods of the temperature, not {self.periods}")
