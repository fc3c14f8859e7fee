"""Compute the ranking from the measures of each image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.errors import InputError
from sdclr.mining.kinds import Kinds
from sdclr.mining.scores import Scores
from sdclr.reporting.gallery_entries import KindGroup


def kind_groups(
    kinds: Kinds, positions: NDArray[np.int64] | None = None, *, rare: NDArray[np.bool_] | None = None
) -> tuple[KindGroup, ...]:
    """Description of each kind, largest first.

    Args:
        kinds: The kinds of some images.
        positions: Positions of these images in the collection; by default they are all its images.
        rare: (K,) whether each kind is marked as rare; by default `kinds.rare()`.
    """
    rare = kinds.rare() if rare is None else rare
    return tuple(
        KindGroup(
            kind=number,
            size=size,
            separation=float(kinds.separation[number]),
            medoid=int(kinds.medoids[number] if positions is None else positions[kinds.medoids[number]]),
            rare=bool(rare[number]),
        )
        for number, size in enumerate(kinds.sizes.tolist())
    )


def rank_images(
    ids: Sequence[str],
    columns: Mapping[str, ArrayLike],
    rarity: ArrayLike,
    kinds: ArrayLike,
    *,
    score: str,
    groups: Sequence[KindGroup] = (),
    odd: ArrayLike = (),
    bad: Mapping[str, str] | None = None,
    ties: ArrayLike | None = None,
    labels: NDArray[np.int64] | None = None,
    classes: Sequence[str] = (),
    about: dict[str, Any] | None = None,
    projection: NDArray[np.float32] | None = None,
) -> Scores:
    """Rank images by rarity.

    Args:
        ids: N ids, in the source's order.
        columns: Raw measures (N,) by name.
        rarity: (N,), larger for rarer images; finite except for bad images, which are left out of the ranking.
        kinds: (N,) kinds of the images.
        score: Name of the score in `rarity`.
        groups: (K,) description of each kind.
        odd: Positions of single odd images, oddest first.
        bad: Reason by id of each unusable image.
        ties: (N,) sort key for equal rarities, larger for rarer images; remaining ties are sorted by position.
        labels: (N,) class ids, only stored.
        classes: Class names.
        about: Origin of the scores.
        projection: (N, 2) coordinates on a map, nan for bad images.

    Raises:
        InputError: The rarity of a usable image is not finite.
    """
    bad = dict(bad or {})
    values = np.array(rarity, dtype=np.float32)
    usable = np.array([image_id not in bad for image_id in ids], dtype=bool)
    wrong = np.flatnonzero(usable & ~np.isfinite(values))
    if len(wrong):
        raise InputError(
            f"{ids[wrong[0]]}: its {score} is {values[wrong[0]]}, not a finite number: use an earlier checkpoint"
        )
    values[~usable] = np.nan
    second = np.zeros(len(values)) if ties is None else np.asarray(ties, dtype=np.float64)
    where = np.flatnonzero(usable)
    order = where[np.lexsort((where, -second[where], -values[where]))]
    rank = np.zeros(len(values), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    percentile = np.where(usable, 100 * (len(order) - rank) / max(1, len(order) - 1), np.nan).astype(np.float32)
    if len(order) == 1:
        percentile[order] = 100
    return Scores(
        ids=list(ids),
        columns={name: np.where(usable, column, np.nan).astype(np.float32) for name, column in columns.items()},
        rarity=values,
        rank=rank,
        percentile=percentile,
        kinds=np.where(usable, kinds, -1).astype(np.int64),
        groups=tuple(groups),
        odd=np.asarray(odd, dtype=np.int64),
        bad=bad,
        labels=labels,
        classes=tuple(classes),
        score=score,
        about=about or {},
        projection=projection,
    )
