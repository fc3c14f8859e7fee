"""Selects images of a labeled set: a drawn long tail, its controls, or a published list."""

import numpy as np

from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import Source, SubsetSource
from sdclr.errors import InputError
from sdclr.longtail.config import SubsetConfig
from sdclr.longtail.index_lists import load_index_list
from sdclr.longtail.splits import long_tail_split


def select(source: Source, config: SubsetConfig) -> Source:
    """Select the subset of a source that a configuration defines.

    Raises:
        InputError: If labels are needed and missing, or a class has too few images.
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
