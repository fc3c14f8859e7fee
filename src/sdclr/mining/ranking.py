"""From the measures of each image to the ranking."""

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
    """What is known of each kind, falling in size.

    Args:
        kinds: The kinds of some images.
        positions: Position of each of these images in the collection; by default they are the collection.
        rare: (K,) the kinds that come first; by default the rare ones.
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
        columns: Raw quantities (N,) by name.
        rarity: (N,), the larger the rarer; finite except for bad images, which are left out of the ranking.
        kinds: (N,) kinds of the images.
        score: Name of what `rarity` is.
        groups: (K,) what is known of each kind.
        odd: Positions of single odd images, the oddest first.
        bad: Reason by id of each image that could not be used.
        ties: (N,) decides among equal rarities, the larger the rarer; then the position does, the first first.
        labels: (N,) class ids, only kept.
        classes: Class names.
        about: How the scores came about.
        projection: (N, 2) places on a map, nan where bad.

    Raises:
        InputError: If a usable image has no finite rarity.
    """
    bad = dict(bad or {})
    values = np.array(rarity, dtype=np.float32)
    usable = np.array([image_id not in bad for image_id in ids], dtype=bool)
    wrong = np.flatnonzero(usable & ~np.isfinite(values))
    if len(wrong):
        raise InputError(
            f"{ids[wrong[0]]}: its {score} is {values[wrong[0]]}, no finite number: use an earlier checkpoint"
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
