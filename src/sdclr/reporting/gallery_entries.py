"""Checked contents of the page of rare images: scores, kinds, odd images, and examples of each kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sdclr.data.sources import Source
from sdclr.errors import InputError
from sdclr.visible import counted

EXAMPLES: Final = 12
"""Maximum number of example images per kind, besides its medoid."""

_LISTED: Final = 5
"""Maximum number of kinds for which the summary lists each size."""


@dataclass(frozen=True)
class KindGroup:
    """One kind: images that are separate from all others in the neighbor graph."""

    kind: int
    """Its number, 0 for the largest."""
    size: int
    """Number of images in it."""
    separation: float
    """Share in [0, 1] of the kind's links in the neighbor graph that stay inside it."""
    medoid: int
    """Position of its most central image."""
    rare: bool
    """Whether the kind is classified as rare."""


@dataclass(frozen=True)
class NearestOld:
    """The images of an earlier collection that are nearest to each image of this one."""

    ids: Sequence[str]
    """Ids of the M old images."""
    files: Sequence[str | None]
    """(M,) their files, None for images without a file."""
    rows: NDArray[np.int64]
    """(N, k) indices of old images, nearest first; -1 for bad images."""
    distances: NDArray[np.float32]
    """(N, k) cosine distances."""


@dataclass(frozen=True)
class GalleryEntries:
    """Data of each image on the page."""

    ids: Sequence[str]
    """Ids of all N images, in the source's order, including bad ones."""
    columns: Mapping[str, NDArray[np.float32]]
    """Further scores by name, each (N,), nan if unknown."""
    rarity: NDArray[np.float32]
    """(N,), the score that ranks the images, larger for rarer ones; nan for bad images."""
    rank: NDArray[np.int64]
    """(N,), 1 for the rarest; 0 for bad images."""
    percentile: NDArray[np.float32]
    """(N,), 100 for the rarest; nan for bad images."""
    kinds: NDArray[np.int64]
    """(N,), the kind of each image, 0 for the largest; -1 for bad images."""
    groups: Sequence[KindGroup]
    """The kinds, largest first."""
    odd: NDArray[np.int64]
    """Positions of single odd images, the oddest first; may be empty."""
    bad: Mapping[str, str]
    """Reason why an image is bad, by id."""
    labels: NDArray[np.int64] | None = None
    """(N,), class ids, -1 if unknown; only displayed."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""
    score: str = "rarity"
    """Name of the rarity score, such as "distance"."""
    duplicates: Sequence[Sequence[int]] = ()
    """Groups of near-duplicates as positions, the image to keep first."""
    projection: NDArray[np.float32] | None = None
    """(N, 2), coordinates of each image on a map, nan for bad images; None without a map."""
    label_next: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Positions of images to label next, in order."""
    since: NDArray[np.int64] | None = None
    """(N,) seconds since 1970 when each was added or changed; 0 for those of the first call; None if unknown."""
    old: NearestOld | None = None
    """The nearest images of an earlier collection; None without one."""


def check_entries(entries: GalleryEntries, source: Source) -> None:
    """Check that the entries are consistent, and that they match the source.

    Raises:
        InputError: They are inconsistent or do not match.
    """
    count = len(entries.ids)
    columns: dict[str, NDArray[Any] | None] = {
        **entries.columns,
        "rarity": entries.rarity,
        "rank": entries.rank,
        "percentile": entries.percentile,
        "kinds": entries.kinds,
        "labels": entries.labels,
    }
    for name, values in columns.items():
        if values is not None and values.shape != (count,):
            raise InputError(f"{name} has shape {values.shape} for {count} ids: give one number for each")
    if len(source) != count:
        raise InputError(f"{source.name} has {len(source)} images, but {count} are scored: give the source scored")
    for position in range(0, count, max(1, count // 100)):
        if source.ids[position] != entries.ids[position]:
            raise InputError(
                f"{source.name}: image {position} is {source.ids[position]!r}, but {entries.ids[position]!r} was "
                "scored there: give the source scored"
            )
    if entries.projection is not None and entries.projection.shape != (count, 2):
        raise InputError(f"projection has shape {entries.projection.shape} for {count} ids: give two numbers for each")
    _check_kinds(entries)
    _check_positions(entries, "odd", entries.odd)
    _check_positions(entries, "label_next", entries.label_next)
    grouped = [position for group in entries.duplicates for position in group]
    _check_positions(entries, "duplicates", np.array(grouped, dtype=np.int64))


def _check_kinds(entries: GalleryEntries) -> None:
    ranked = entries.rank > 0
    wrong = np.flatnonzero(ranked != (entries.kinds >= 0))
    if len(wrong):
        image_id, kind = entries.ids[wrong[0]], int(entries.kinds[wrong[0]])
        said = "is ranked" if ranked[wrong[0]] else "is not ranked"
        raise InputError(f"{image_id!r} {said} and has the kind {kind}: give ranked images a kind, and all others -1")
    numbers = [group.kind for group in entries.groups]
    if numbers != list(range(len(numbers))):
        raise InputError(f"the groups have the kinds {numbers[:10]}: give one for each kind, in order, 0 first")
    sizes = np.bincount(entries.kinds[ranked], minlength=len(numbers))
    if len(sizes) > len(numbers):
        raise InputError(f"kinds go up to {len(sizes) - 1}, but there are {len(numbers)} groups: give one for each")
    before = len(entries.ids)
    for group, size in zip(entries.groups, sizes.tolist(), strict=True):
        if group.size != size or size < 1:
            raise InputError(f"kind {group.kind} has {size} images, but its group says {group.size}: count them again")
        if size > before:
            raise InputError(f"kind {group.kind} has {size} images, the one before it {before}: put the largest first")
        before = size
        if not 0 <= group.separation <= 1:
            raise InputError(f"kind {group.kind} has separation {group.separation}: give a share from 0 to 1")
        if not 0 <= group.medoid < len(entries.ids) or entries.kinds[group.medoid] != group.kind:
            raise InputError(f"kind {group.kind} has the medoid {group.medoid}: give the position of one of its images")


def _check_positions(entries: GalleryEntries, name: str, positions: NDArray[np.int64]) -> None:
    if positions.ndim != 1 or len(np.unique(positions)) != len(positions):
        raise InputError(f"{name} has shape {positions.shape} or repeats a position: give each image once")
    outside = positions[(positions < 0) | (positions >= len(entries.ids))]
    if len(outside):
        raise InputError(f"{name} holds {outside[0]} for {len(entries.ids)} images: give their positions, from 0")
    unranked = positions[entries.rank[positions] < 1]
    if len(unranked):
        raise InputError(f"{entries.ids[unranked[0]]!r} is in {name} but not ranked: give ranked images")


def ranked_positions(entries: GalleryEntries) -> NDArray[np.int64]:
    """Positions of the ranked images, rarest first. Row r of a complete page shows the r-th of them."""
    ranked = np.flatnonzero(entries.rank > 0)
    return ranked[np.argsort(entries.rank[ranked], kind="stable")]


def rows_of(positions: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of images by their positions; `rows` holds the position of each row's image."""
    found = np.full(max(rows.max(initial=-1), positions.max(initial=-1)) + 1, -1, dtype=np.int64)
    found[rows] = np.arange(len(rows))
    return found[positions]


def kind_examples(entries: GalleryEntries, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of example images of each kind, from the smallest to the largest kind.

    The first is the medoid. Up to `EXAMPLES` more follow, evenly spread over the ranking inside the kind, from the most
    common to the rarest.
    """
    kinds = entries.kinds[rows]
    order = np.argsort(kinds, kind="stable")  # by kind, then by rank
    ends = np.cumsum([group.size for group in entries.groups], dtype=np.int64)
    medoids = rows_of(np.array([group.medoid for group in entries.groups], dtype=np.int64), rows)
    found = []
    for group, end, medoid in zip(entries.groups, ends.tolist(), medoids.tolist(), strict=True):
        members = order[end - group.size : end][::-1]
        members = members[members != medoid]
        chosen = np.linspace(0, max(0, len(members) - 1), min(EXAMPLES, len(members))).round().astype(np.int64)
        found.append(np.concatenate([[medoid], members[chosen]]))
    return found[::-1]


def in_short(entries: GalleryEntries) -> str:
    """The collection in one line: numbers of images, kinds, odd images, near-duplicates and unreadable images."""
    images, kinds = int((entries.rank > 0).sum()), sorted(group.size for group in entries.groups)
    if images == 0:
        return "No image could be read."
    parts = [counted(images, "image")]
    if 1 < len(kinds) <= _LISTED:
        listed = f"{', '.join(f'{size:,}' for size in kinds[:-1])} and {kinds[-1]:,}"
        parts.append(f"{len(kinds)} separate kinds: {listed} images")
    elif len(kinds) > 1:
        parts.append(f"{len(kinds):,} separate kinds, from {kinds[0]:,} to {counted(kinds[-1], 'image')}")
    if len(entries.odd):
        parts.append(counted(len(entries.odd), "odd image"))
    copies = sum(len(group) - 1 for group in entries.duplicates)
    if copies:
        parts.append(counted(copies, "near-duplicate"))
    if entries.bad:
        parts.append(f"{counted(len(entries.bad), 'image')} could not be read")
    return f"{'. '.join(parts)}."
