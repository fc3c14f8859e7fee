"""Settings of probes and evaluations. Imports neither NumPy nor torch."""

import math
from dataclasses import dataclass, field
from typing import Literal

from sdclr.config import check_numbers
from sdclr.errors import InputError
from sdclr.longtail.config import GroupRule


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Training of a linear probe. The defaults are the paper's protocol on a fully labeled training set."""

    epochs: int = 30
    """Passes over the labeled images."""
    milestones: tuple[int, ...] = (10, 20)
    """Epochs after which the learning rate falls to a tenth; those beyond the last epoch have no effect."""
    batch_size: int = 128
    """Images per step."""
    learning_rates: tuple[float, ...] = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
    """Initial learning rates, trained in parallel; the validation set chooses one."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """L2 penalty on weight and bias."""
    seed: int = 0
    """Seed of the order of the images and their augmentation."""

    def __post_init__(self) -> None:
        check_numbers(self, seed=0)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if any(later <= earlier for earlier, later in zip((0, *self.milestones), self.milestones, strict=False)):
            raise InputError(f"milestones={self.milestones} must be ascending epochs from 1 on")
        rates = self.learning_rates
        if not rates or len(set(rates)) != len(rates) or not all(0 < rate < math.inf for rate in rates):
            raise InputError(f"learning_rates={rates} must be different numbers above 0, at least one")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum={self.momentum} must be at least 0 and below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay={self.weight_decay} must be 0 or more")

    @classmethod
    def few_shot(cls) -> "ProbeConfig":
        """The paper's protocol for about one percent of the labels: more epochs, later milestones."""
        return cls(epochs=100, milestones=(40, 60))


LINEAR = ProbeConfig()
"""The protocol of linear separability: all labels."""


FEW_SHOT = ProbeConfig.few_shot()
"""The few-shot protocol: about one percent of the labels."""


@dataclass(frozen=True, kw_only=True)
class LogisticConfig:
    """The penalties of a logistic regression, and the accuracy of the solver."""

    penalties: tuple[float, ...] = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
    """L2 penalties on the weights of standardized features; the validation set chooses one."""
    tolerance: float = 1e-5
    """Largest entry of the gradient at which the chosen layer has converged."""
    search_tolerance: float = 1e-3
    """The same tolerance for the layers among which the validation set chooses."""
    patience: int = 3
    """Number of consecutive weaker penalties without improvement after which the search stops."""
    max_iterations: int = 1000
    """Iterations of L-BFGS for each penalty, at most."""

    def __post_init__(self) -> None:
        penalties = self.penalties
        if not penalties or len(set(penalties)) != len(penalties) or not all(0 < p < math.inf for p in penalties):
            raise InputError(f"penalties={penalties} must be different numbers above 0, at least one")
        for name in ("tolerance", "search_tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("max_iterations", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")


LOGISTIC = LogisticConfig()
"""Penalties from strong to almost none."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Configuration of an evaluation.

    Example:
        >>> config = sdclr.EvaluateConfig(shots=5, draws=3)  # probes on three sets of five labels a class
        >>> config.k
        200
    """

    branch: Literal["dense", "sparse"] = "dense"
    """dense is the exported encoder; sparse is its pruned twin, with separate normalization."""
    validation: float = 0.1
    """Share of the labeled training images, taken from each class, that chooses learning rate and epoch."""
    shots: int | None = None
    """Labeled images per class of the few-shot probe; by default 1 % of the training images, at least 1."""
    draws: int = 1
    """Number of few-shot sets; their accuracies are averaged."""
    augment: bool = False
    """Train the probes on randomly cropped and flipped images in every epoch, as in the paper, instead of on features
    computed once. The encoder then runs in every epoch."""
    k: int = 200
    """Neighbors that vote in the kNN classifier."""
    groups: Literal["thirds", "shots"] = "thirds"
    """Many, Medium and Few: thirds of the classes by size, or more than 100, 20 to 100 and fewer than 20 images."""
    linear: ProbeConfig = field(default_factory=lambda: LINEAR)
    few_shot: ProbeConfig = field(default_factory=lambda: FEW_SHOT)
    seed: int = 0
    """Seed of the held-out images and of the few-shot sets."""
    batch_size: int = 512
    """Images per forward pass."""

    def __post_init__(self) -> None:
        check_numbers(self, seed=0, batch_size=1)
        if not 0 < self.validation < 1:
            raise InputError(f"--validation is a share between 0 and 1, not {self.validation}")
        if (self.shots is not None and self.shots < 1) or self.draws < 1 or self.k < 1:
            raise InputError("--shots, --draws and --k are 1 or more")


@dataclass(frozen=True, kw_only=True)
class AttributeConfig:
    """Configuration of an evaluation.

    Example:
        >>> config = sdclr.AttributeConfig(few_shot=0.05, draws=3)
        >>> config.few_shot, config.groups
        (0.05, 'thirds')
    """

    branch: Literal["dense", "sparse"] = "dense"
    """dense is the exported encoder; sparse is its pruned twin, with separate normalization."""
    validation: float = 0.1
    """Share of the labeled training images, taken from each attribute, that chooses the penalties."""
    few_shot: float = 0.01
    """Share of the remaining training images for the few-shot probe, at least one with each attribute."""
    draws: int = 1
    """Number of few-shot sets; their results are averaged."""
    groups: GroupRule = "thirds"
    """Many, Medium and Few: thirds of the attributes by size, or more than 100, 20 to 100 and fewer than 20 images."""
    logistic: LogisticConfig = field(default_factory=lambda: LOGISTIC)
    seed: int = 0
    """Seed of the held-out images and of the few-shot sets."""
    batch_size: int = 512
    """Images per forward pass."""

    def __post_init__(self) -> None:
        check_numbers(self, seed=0, batch_size=1)
        for name in ("validation", "few_shot"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        if self.draws < 1:
            raise InputError(f"draws is 1 or more, not {self.draws}")
