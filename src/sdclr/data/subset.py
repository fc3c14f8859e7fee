"""Which images of a labelled set are used: a drawn long tail, its controls, or a published list."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdclr.data.longtail import load_index_list, long_tail_split, train_validation_split
from sdclr.data.sources import Source, SubsetSource
from sdclr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """A part of the images. Only drawing it looks at labels; training never does."""

    kind: Literal["all", "long-tail", "balanced", "few-shot"] = "all"
    """All images; an exponential long tail; as many images equally divided; or 1 % equally divided."""
    max_count: int | None = None
    """Images of the most frequent class; by default as many as every class has."""
    imbalance: float = 100.0
    """Most frequent class over the rarest."""
    seed: int = 1
    """Decides the order of the classes and which images are drawn; the paper's five sub-samplings are 1 to 5."""
    holdout: int = 0
    """Labelled images kept out of every subset, equally many a class, for validation (5000 for CIFAR-10)."""
    indices: str | None = None
    """A .npy file of positions in the source, used as it is. Published CIFAR splits count in the original order, which
    cifar10:FOLDER has; a set that is sorted otherwise, as Parquet copies may be, gives other images."""

    def __post_init__(self) -> None:
        if self.indices is not None and (self.kind != "all" or self.holdout):
            raise InputError("--subset.indices is a finished subset: leave out --subset.kind and --subset.holdout")


def select(source: Source, config: SubsetConfig) -> Source:
    """The part of a source that a configuration names.

    Raises:
        InputError: If labels are needed and absent, or there are too few images of some class.
    """
    if config.indices is not None:
        return SubsetSource(source, load_index_list(config.indices, size=len(source)))
    if config.kind == "all" and not config.holdout:
        return source
    if source.labels is None:
        raise InputError(
            f"{source.name} has no labels, and a {config.kind} subset is drawn by them: use --subset.kind all"
        )
    pool = np.flatnonzero(source.labels >= 0)
    if config.holdout:
        pool, _ = train_validation_split(source.labels, validation=config.holdout, seed=0)
    if config.kind == "all":
        return SubsetSource(source, pool, name=source.name)
    sizes = np.bincount(source.labels[pool])
    most = config.max_count or int(sizes[sizes > 0].min())
    split = long_tail_split(source.labels, max_count=most, imbalance=config.imbalance, seed=config.seed, pool=pool)
    chosen = {"long-tail": split.long_tail, "balanced": split.balanced, "few-shot": split.few_shot}[config.kind]
    return SubsetSource(source, chosen, name=f"{source.name}-{config.kind}-{config.seed}")
