"""Data of the page of rare images: scores, kinds and pictures, as text for scripts."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdclr.data.sources import Source, image_file, whole_image
from sdclr.reporting.gallery_entries import GalleryEntries, NearestOld, kind_examples, ranked_positions, rows_of
from sdclr.reporting.search_index import as_base64
from sdclr.reporting.thumbnails import SheetPlan, Thumbnails

CHUNK: Final = 20_000
"""Rows per script."""

FIRST_KINDS: Final = 30
"""Number of kinds whose examples are adjacent in the sheets, since the page lists them first."""

FIRST_ODD: Final = 48
"""Number of odd images, and of images to label next, that the page shows first."""

FIRST_GROUPS: Final = 24
"""Number of groups of near-duplicates that the page shows first."""

OLD_SHOWN: Final = 6
"""Number of nearest images of an earlier collection that the page shows per image."""

_FIRST_COPIES: Final = 6
"""Number of images per group of near-duplicates that the page shows first."""

_OFF_MAP: Final = 65535
"""Coordinate of an image that is not on the map."""

_TITLES: Final = (
    (
        r"distance_(\d+)",
        r"Distance to \1 neighbors",
        "The mean distance to the nearest images. A rare image is far from all others.",
    ),
    (
        r"against_(\d+)",
        r"Distance to \1 old images",
        "The mean distance to the nearest images of the earlier collection, 0 for images that are there already.",
    ),
    (r"kind_size", "Size of the kind", "The number of images of the same kind. A small kind is rare."),
    (
        r"lof_(\d+)",
        r"Outlier factor, \1 neighbors",
        "The density around the neighbors divided by the density around the image. Above 1: the image is isolated.",
    ),
    (r"loss", "Contrastive loss", "The loss of the image in the training task. Rare images often have a low loss."),
    (
        r"forgetting_projection_([\d.]+)",
        r"Forgetting at \1, projection",
        "The change of the projection of the image when this share of the weights is pruned.",
    ),
    (
        r"forgetting_([\d.]+)",
        r"Forgetting at \1",
        "The change of the features of the image when this share of the weights is pruned.",
    ),
)


class PageRows(NamedTuple):
    """The images that the page lists, and those at its top. All numbers except `positions` are rows of the page."""

    positions: NDArray[np.int64]
    """(R,) position of each row's image, rarest first."""
    ranked: int
    """Number of ranked images, at least R."""
    examples: list[NDArray[np.int64]]
    """Examples of each kind from the smallest to the largest; empty with only one kind."""
    odd: NDArray[np.int64]
    duplicates: list[NDArray[np.int64]]
    """Groups of near-duplicates; the first image of each is the one to keep."""
    label_next: NDArray[np.int64]

    def at_the_top(self) -> NDArray[np.int64]:
        """Rows of the pictures that the top of the page shows before any click."""
        copies = [group[:_FIRST_COPIES] for group in self.duplicates[:FIRST_GROUPS]]
        strips = [self.odd[:FIRST_ODD], self.label_next[:FIRST_ODD]]
        return _in_one([*self.examples[:FIRST_KINDS], *strips, *copies])

    def others_shown(self) -> NDArray[np.int64]:
        """Rows that the page can show in addition to the ranking: medoids, odd images, copies, images to label next."""
        medoids = [rows[:1] for rows in self.examples[FIRST_KINDS:]]
        return _in_one([*medoids, self.odd, self.label_next, *self.duplicates])


class Places(NamedTuple):
    """The rows with a thumbnail, and the order of the thumbnails in the sheets."""

    ranked: int
    """Number of rows whose thumbnails come first, in rank order."""
    further: NDArray[np.int64]
    """Rows whose thumbnails follow. Rows at the top of the page are adjacent, so that few sheets load."""

    def drawn(self) -> NDArray[np.int64]:
        """Rows in the order of their thumbnails. A row may have two."""
        return np.concatenate([np.arange(self.ranked), self.further])


class Pictures(NamedTuple):
    """The thumbnails of the page."""

    places: Places
    thumbnails: Thumbnails
    plan: SheetPlan
    address: str
    """Address of the page's folder, relative to the page."""


def page_rows(entries: GalleryEntries, limit: int) -> PageRows:
    """Choose the images that the page lists: the rarest, and those at its top.

    Args:
        entries: The whole collection.
        limit: Number of the rarest images to list.
    """
    full = ranked_positions(entries)
    several = len(entries.groups) > 1  # a single kind is the whole collection
    examples = [full[rows] for rows in kind_examples(entries, full)] if several else []
    groups = [np.asarray(group, dtype=np.int64) for group in entries.duplicates]
    label_next = np.asarray(entries.label_next, dtype=np.int64)
    rows = full
    if len(full) > limit:
        wanted = np.concatenate([full[:limit], _in_one([*examples, entries.odd, label_next, *groups])])
        rows = full[np.sort(np.unique(rows_of(wanted, full)))]
    return PageRows(
        positions=rows,
        ranked=len(full),
        examples=[rows_of(found, rows) for found in examples],
        odd=rows_of(entries.odd, rows),
        duplicates=[rows_of(group, rows) for group in groups],
        label_next=rows_of(label_next, rows),
    )


def thumbnail_places(rows: PageRows, thumbnails: int | None) -> Places:
    """Choose the rows that get a thumbnail.

    Images at the top of the page are drawn again, adjacent in the sheets. Otherwise each example in the middle of the
    ranking would load a separate sheet.

    Args:
        rows: The rows of the page.
        thumbnails: Number of the rarest images with a thumbnail; all by default.
    """
    ranked = len(rows.positions) if thumbnails is None else min(thumbnails, len(rows.positions))
    others = rows.others_shown()
    further = np.concatenate([rows.at_the_top(), others[others >= ranked]])
    _, first = np.unique(further, return_index=True)
    return Places(ranked, further[np.sort(first)])


def digest(entries: GalleryEntries, rows: PageRows, salt: str) -> str:
    """Hash of a page's contents, for the names of its files."""
    found = hashlib.sha256(salt.encode())
    found.update("\0".join(entries.ids).encode("utf-8", "surrogatepass"))
    found.update(repr(list(entries.groups)).encode())
    arrays = [rows.positions, entries.rarity, entries.kinds, entries.odd, rows.label_next, *entries.columns.values()]
    arrays += [values for values in (entries.projection, entries.since) if values is not None]
    if entries.old is not None:
        arrays += [entries.old.rows, entries.old.distances]
    for values in (*arrays, *rows.duplicates):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:12]


def collection_key(source: Source) -> str:
    """Key under which a browser stores marks: a hash of the images' folder, so that marks survive new images.

    If the images are not individual files, it is a hash of their ids.
    """
    file = image_file(source, 0) if len(source) else None
    inside = file is not None and str(file).endswith(source.ids[0])
    place = str(Path(file or "").absolute()).removesuffix(source.ids[0]) if inside else "\0".join(source.ids)
    return hashlib.sha256(f"{source.name}\0{place}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def row_chunk(
    entries: GalleryEntries,
    source: Source,
    rows: NDArray[np.int64],
    first: int,
    *,
    sizes: NDArray[np.uint16],
    why: Callable[[int], str] | None,
    page: Path,
) -> dict[str, Any]:
    """Data of `CHUNK` images for the page, with numbers as little-endian bytes in base64."""
    part = rows[first : first + CHUNK]
    chunk: dict[str, Any] = {
        "first": first,
        "ids": [entries.ids[position] for position in part.tolist()],
        "rank": as_base64(entries.rank[part], "<i4"),
        "percentile": as_base64(entries.percentile[part], "<f4"),
        "kind": as_base64(entries.kinds[part], "<i4"),
        "scores": [as_base64(values[part], "<f4") for *_, values in scores_of(entries)],
        "sizes": as_base64(sizes[first : first + CHUNK], "<u2"),
    }
    if entries.labels is not None:
        chunk["label"] = as_base64(entries.labels[part], "<i4")
    if entries.projection is not None:
        chunk["map"] = as_base64(_on_map(entries.projection)[part], "<u2")
    if entries.since is not None:
        chunk["since"] = as_base64(entries.since[part], "<i4")
    if entries.old is not None:
        chunk["old"] = _nearest_old(entries.old, part, page)
    if why is not None:
        chunk["why"] = [why(position) for position in part.tolist()]
    return chunk | _files(source, chunk["ids"], part.tolist(), page) | _wholes(source, part.tolist(), page)


def page_meta(entries: GalleryEntries, source: Source, rows: PageRows, pictures: Pictures) -> dict[str, Any]:
    """Data of the collection and of the top of the page, rarest kind first."""
    places, thumbnails = pictures.places, pictures.thumbnails
    bad = [[image_id, f"not scored: {reason}"] for image_id, reason in entries.bad.items()]
    broken = {item.id: item.reason for item in thumbnails.bad}  # became unreadable after scoring
    bad += [[image_id, f"no picture: {reason}"] for image_id, reason in broken.items() if image_id not in entries.bad]
    drawn = set(places.further.tolist())
    kinds = []
    for group, found in zip(reversed(entries.groups if rows.examples else ()), rows.examples, strict=True):
        pictured = [row for row in found.tolist() if row < places.ranked or row in drawn]
        kinds.append([int(group.kind), int(group.size), round(float(group.separation), 4), bool(group.rare), pictured])
    return {
        "rows": len(rows.positions),
        "rankedImages": rows.ranked,
        "images": len(entries.ids),
        "scores": [{"name": name, "title": title, "about": about} for name, title, about, _ in scores_of(entries)],
        "labeled": entries.labels is not None,
        "classes": list(entries.classes),
        "bad": bad,
        "sheets": [f"{pictures.address}/{name}" for name in thumbnails.sheets],
        "cells": thumbnails.cells,
        "across": pictures.plan.across,
        "key": collection_key(source),
        "kinds": kinds,
        "odd": rows.odd.tolist(),
        "duplicates": [group.tolist() for group in rows.duplicates],
        "next": rows.label_next.tolist(),
        "map": entries.projection is not None,
        "against": entries.old is not None,
        "ranked": places.ranked,
        "further": places.further.tolist(),
    }


def scores_of(entries: GalleryEntries) -> list[tuple[str, str, str, NDArray[np.float32]]]:
    """Name, title, meaning and values of each score. The score that ranks the images comes first."""
    first = ("rarity", f"Rarity ({entries.score})", "Larger values mean rarer images.", entries.rarity)
    others = []
    for name, values in entries.columns.items():
        title, about = titled(name)
        if np.array_equal(values, entries.rarity, equal_nan=True):  # show it once, under its column name
            first = (name, title, about, values)
        else:
            others.append((name, title, about, values))
    name, title, about, values = first
    return [(name, title, f"This score ranks the images. {about}".strip(), values), *others]


def ranked_by(entries: GalleryEntries) -> str:
    """Name of the score that ranks the images if there is only one kind."""
    name, title, *_ = scores_of(entries)[0]
    distance = name.startswith("distance") or entries.score in ("distance", "kinds")
    return "the distance to their nearest neighbors" if distance else f"this score: {title}"


def titled(name: str) -> tuple[str, str]:
    """Title and meaning of a score on the page."""
    for pattern, title, about in _TITLES:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(title), about
    return name.replace("_", " "), ""


def as_json(value: Any) -> str:
    """JSON that is safe in a script: it cannot end the script or a line."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))  # U+2028 and lone surrogates become \uXXXX
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _in_one(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *rows])


def _on_map(projection: NDArray[np.float32]) -> NDArray[np.uint16]:
    """(N, 2) integers from 0 to 65534 along the longer side of the map; 65535 for images without a place."""
    known = np.isfinite(projection).all(axis=1)
    places = np.full(projection.shape, _OFF_MAP, dtype=np.uint16)
    if known.any():
        low, high = projection[known].min(axis=0), projection[known].max(axis=0)
        span = float((high - low).max()) or 1.0
        centered = (projection[known] - (low + high) / 2) / span + 0.5
        places[known] = np.clip(centered * (_OFF_MAP - 1), 0, _OFF_MAP - 1).round().astype(np.uint16)
    return places


def _files(source: Source, ids: Sequence[str], positions: Sequence[int], page: Path) -> dict[str, Any]:
    """Image paths relative to the page, so that marks name the files; {} if the images are not files.

    The page contains no absolute path, so it can be shared, and moved together with its images.
    """
    found = [image_file(source, position) for position in positions]
    if not found or None in found:
        return {}
    names = [_as_seen_from(page.absolute().parent, Path(file or "").absolute()) for file in found]
    roots = {name.removesuffix(image_id) for name, image_id in zip(names, ids, strict=True)}
    if len(roots) == 1 and all(name.endswith(image_id) for name, image_id in zip(names, ids, strict=True)):
        return {"root": roots.pop()}
    return {"files": names}


def _nearest_old(old: NearestOld, positions: NDArray[np.int64], page: Path) -> dict[str, Any]:
    """The old images nearest to some images, each once, and their distances."""
    rows = old.rows[positions, :OLD_SHOWN]
    used, which = np.unique(rows, return_inverse=True)
    folder = page.absolute().parent
    files = [old.files[row] for row in used.tolist()]
    return {
        "ids": [old.ids[row] for row in used.tolist()],
        "files": [None if file is None else _as_seen_from(folder, Path(file)) for file in files],
        "which": as_base64(which.reshape(rows.shape), "<i4"),
        "far": as_base64(old.distances[positions, :OLD_SHOWN], "<f4"),
        "each": rows.shape[1],
    }


def _wholes(source: Source, positions: Sequence[int], page: Path) -> dict[str, Any]:
    """The images that contain the boxes, each once, and the boxes' edges; {} if the items are not boxes."""
    found = [whole for position in positions if (whole := whole_image(source, position)) is not None]
    if len(found) != len(positions) or not found:
        return {}
    number_of = {file: number for number, file in enumerate(dict.fromkeys(whole.file for whole in found))}
    wholes = {
        "files": [_as_seen_from(page.absolute().parent, file.absolute()) for file in number_of],
        "which": as_base64(np.array([number_of[whole.file] for whole in found]), "<i4"),
        "edges": as_base64(np.array([whole.edges for whole in found]), "<f4"),
    }
    return {"wholes": wholes}


def _as_seen_from(folder: Path, file: Path) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return file.as_posix()
