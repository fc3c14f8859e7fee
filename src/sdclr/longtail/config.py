"""Settings of subsets, and the names of data sets. Imports neither NumPy nor torch."""

from dataclasses import dataclass
from typing import Literal

from sdclr.config import check_numbers
from sdclr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """A subset of the images. Labels are used only to draw the subset, never for training."""

    kind: Literal["all", "long-tail", "balanced", "few-shot"] = "all"
    """All images; an exponential long tail; a balanced subset of the same size; or 1 % of the images, balanced."""
    max_count: int | None = None
    """Images of the most frequent class; by default the largest number that every class has."""
    imbalance: float = 100.0
    """Ratio of the most frequent to the rarest class."""
    seed: int = 1
    """Seed of the class order and of the drawn images; the paper's five subsets are 1 to 5."""
    holdout: int = 0
    """Labeled images kept out of every subset for validation, the same number per class (5000 for CIFAR-10)."""
    indices: str | None = None
    """A .npy file of positions in the source. Published CIFAR splits refer to the original order, which cifar10:FOLDER
    uses; a copy in another order, such as some Parquet files, gives other images."""

    def __post_init__(self) -> None:
        check_numbers(self, max_count=1, imbalance=1, seed=0, holdout=0)
        if self.indices is not None and (self.kind != "all" or self.holdout):
            raise InputError("--subset.indices is a finished subset: leave out --subset.kind and --subset.holdout")


DatasetName = Literal[
    "cifar10_lt", "cifar100_lt", "cifar10", "cifar100", "imagenet_lt", "imagenet_lt_exp", "imagenet100_lt"
]


GroupRule = Literal["thirds", "shots"]
