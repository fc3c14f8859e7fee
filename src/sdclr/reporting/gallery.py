"""The page of rare images: one HTML file and a folder beside it, opened from disk, quick with 100,000 images.

Scripts on a page opened from disk may fetch nothing, but pictures and scripts load. So scores lie in scripts, and
thumbnails in sheets. A browser loads only the sheets that are in sight.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from sdclr.data.scan import Progress
from sdclr.data.sources import Source
from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.files import write_atomically
from sdclr.reporting.gallery_entries import (
    GalleryEntries,
    KindGroup,
    check_entries,
    in_short,
    kind_examples,
    ranked_positions,
    rows_of,
)
from sdclr.reporting.page_search import remove_searches, write_search
from sdclr.reporting.search_index import LIMIT
from sdclr.reporting.thumbnails import SheetPlan, Thumbnails, write_sheets
from sdclr.version import __version__

__all__ = ["GalleryEntries", "KindGroup", "write_gallery"]

_CHUNK: Final = 20_000
"""Rows of one script."""

_FIRST_KINDS: Final = 30
"""Kinds that the page lists at first; more on request."""

_FIRST_ODD: Final = 48
"""Odd images of which a window's width shows the first."""

_TITLES: Final = (
    (
        r"distance_(\d+)",
        r"Distance to \1 neighbors",
        "The mean distance to the nearest images. A rare image is far from all others.",
    ),
    (r"kind_size", "Size of the kind", "The number of images of the same kind. A small kind is rare."),
    (
        r"lof_(\d+)",
        r"Outlier factor, \1 neighbors",
        "How much sparser the surroundings of an image are than those of its neighbors. Above 1 means sparser.",
    ),
    (r"loss", "Contrastive loss", "The loss of the image in the training task. Rare images often have a low one."),
    (
        r"forgetting_projection_([\d.]+)",
        r"Forgetting at \1, projection",
        "How much the projection of the image changes when this share of the weights is pruned.",
    ),
    (
        r"forgetting_([\d.]+)",
        r"Forgetting at \1",
        "How much the features of the image change when this share of the weights is pruned.",
    ),
)


class _Places(NamedTuple):
    """Which rows have a thumbnail, and in which order the sheets hold them."""

    ranked: int
    """The first so many rows come first, in order of their rank."""
    further: NDArray[np.int64]
    """Rows whose thumbnails follow. What the top of the page shows lies together here, so that few sheets load."""


def write_gallery(
    path: str | Path,
    entries: GalleryEntries,
    source: Source,
    *,
    title: str,
    summary: str = "",
    why: Callable[[int], str] | None = None,
    thumbnails: int | None = None,
    size: int = 112,
    features: NDArray[np.floating[Any]] | None = None,
    encoder: Encoder | None = None,
    search_limit: int = LIMIT,
    workers: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write the page: an HTML file, and beside it a folder of the same name plus `_files` with scores and thumbnails.

    The page sums the collection up, shows each kind from the rarest to the largest and the odd images, and lists all
    images by rank. A page that was written before stays complete until the new one is, which then replaces it.

    Args:
        path: The HTML file; its folder is made if it is missing.
        entries: The images, their scores, kinds and odd images.
        source: Gives the pictures; its ids are those of the entries.
        title: The heading.
        summary: What else the reader should know, in a few sentences.
        why: Says why an image, by its position, has its rank. By default the page says it from the scores.
        thumbnails: How many of the rarest images get a picture; all by default. Medoids, the odd images and the
            examples of the rarest 30 kinds always get one.
        size: Longer side of a thumbnail in pixels; smaller images are kept as they are.
        features: (N, D), by which the page finds similar images; nan where an image is bad. May be memory-mapped.
        encoder: What made the features; the page then takes image files as queries, if a browser can compute it.
        search_limit: Bytes that the index of the features may take; beyond that the page has no such search.
        workers: Processes that decode; 0 decodes in this one.
        progress: Called with (thumbnails done, thumbnails in all).

    Returns:
        The HTML file.

    Raises:
        InputError: The entries contradict each other or the source, the features do not belong to the images, a number
            is out of range, or the path is a folder.
    """
    path = Path(path)
    _check(path, thumbnails, size)
    check_entries(entries, source)
    rows = ranked_positions(entries)
    several = len(entries.groups) > 1  # one kind is no kind apart
    examples, odd = kind_examples(entries, rows) if several else [], rows_of(entries.odd, rows)
    places = _places(len(rows) if thumbnails is None else min(thumbnails, len(rows)), examples, odd)
    files = path.with_name(f"{path.stem}_files")
    stamp = _stamp(entries, rows, places.ranked, size)
    drawn = np.concatenate([np.arange(places.ranked), places.further])
    plan = SheetPlan(rows=rows[drawn], size=size, folder=files, prefix=f"sheet-{stamp}-")
    pictures = write_sheets(source, plan, workers=workers, progress=progress)
    sizes = np.zeros((len(rows), 2), dtype=np.uint16)
    sizes[drawn] = pictures.sizes
    scripts = []
    for number, first in enumerate(range(0, len(rows), _CHUNK)):
        scripts.append(f"data-{stamp}-{number:03d}.js")
        text = f"sdclrRows({_json(_chunk(entries, rows, first, sizes, why))});\n"
        write_atomically(files / scripts[-1], text.encode())
    address = quote(files.name, errors="surrogateescape")  # a name may hold what an address may not: #, ?, %
    search = write_search(files, stamp, features, rows, source, encoder=encoder, limit=search_limit)
    known = _meta(entries, len(rows), pictures, plan, address) | _overview(entries, examples, odd, places)
    known["search"] = search and search | {"files": address}
    page = _page(
        title=title,
        short=in_short(entries),
        summary=summary,
        several=several,
        ranked_by=_ranked_by(entries),
        meta=Markup(_json(known)),  # noqa: S704  # escaped by _json
        files=address,
        scripts=scripts,
        searches=search is not None,
        nonce=stamp,
    )
    write_atomically(path, page.encode(errors="replace"))
    _remove_others(files, stamp)
    remove_searches(files, search)
    return path


def _check(path: Path, thumbnails: int | None, size: int) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the page a file name, such as {path / 'rare.html'}")
    if thumbnails is not None and thumbnails < 0:
        raise InputError(f"thumbnails={thumbnails}: give 0 or more, or None for all")
    if not 16 <= size <= 1024:
        raise InputError(f"size={size}: give thumbnails 16 to 1024 pixels")


def _places(ranked: int, examples: list[NDArray[np.int64]], odd: NDArray[np.int64]) -> _Places:
    """Which thumbnails follow those of the rarest images.

    What the top of the page shows is drawn once more, side by side: an example in the middle of the ranking would
    otherwise load a sheet of its own.
    """
    top = np.concatenate([*examples[:_FIRST_KINDS], odd[:_FIRST_ODD]])
    medoids = np.array([rows[0] for rows in examples[_FIRST_KINDS:]], dtype=np.int64)
    others = np.concatenate([medoids, odd[_FIRST_ODD:]])
    further = np.concatenate([top, others[others >= ranked]])
    _, first = np.unique(further, return_index=True)
    return _Places(ranked, further[np.sort(first)])


def _stamp(entries: GalleryEntries, rows: NDArray[np.int64], shown: int, size: int) -> str:
    """Tells one page's files from another's."""
    digest = hashlib.sha256(f"{shown} {size} {__version__}".encode())
    digest.update("\0".join(entries.ids).encode("utf-8", "surrogatepass"))
    digest.update(repr(entries.groups).encode())
    for values in (rows, entries.rarity, entries.kinds, entries.odd, *entries.columns.values()):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:12]


def _chunk(
    entries: GalleryEntries,
    rows: NDArray[np.int64],
    first: int,
    sizes: NDArray[np.uint16],
    why: Callable[[int], str] | None,
) -> dict[str, Any]:
    """What the page is told of `_CHUNK` images, numbers as little-endian bytes in base64."""
    part = rows[first : first + _CHUNK]
    chunk = {
        "first": first,
        "ids": [entries.ids[position] for position in part.tolist()],
        "rank": _bytes(entries.rank[part], "<i4"),
        "percentile": _bytes(entries.percentile[part], "<f4"),
        "kind": _bytes(entries.kinds[part], "<i4"),
        "scores": [_bytes(values[part], "<f4") for *_, values in _scores(entries)],
        "sizes": _bytes(sizes[first : first + _CHUNK], "<u2"),
    }
    if entries.labels is not None:
        chunk["label"] = _bytes(entries.labels[part], "<i4")
    if why is not None:
        chunk["why"] = [why(position) for position in part.tolist()]
    return chunk


def _meta(entries: GalleryEntries, count: int, pictures: Thumbnails, plan: SheetPlan, files: str) -> dict[str, Any]:
    """What the page is told of the collection."""
    bad = [[image_id, f"not scored: {reason}"] for image_id, reason in entries.bad.items()]
    broken = {item.id: item.reason for item in pictures.bad}  # since it was scored
    bad += [[image_id, f"no picture: {reason}"] for image_id, reason in broken.items() if image_id not in entries.bad]
    return {
        "rows": count,
        "images": len(entries.ids),
        "scores": [{"name": name, "title": title, "about": about} for name, title, about, _ in _scores(entries)],
        "labelled": entries.labels is not None,
        "classes": list(entries.classes),
        "bad": bad,
        "sheets": [f"{files}/{name}" for name in pictures.sheets],
        "cells": pictures.cells,
        "across": plan.across,
    }


def _overview(
    entries: GalleryEntries, examples: list[NDArray[np.int64]], odd: NDArray[np.int64], places: _Places
) -> dict[str, Any]:
    """What the top of the page shows, the rarest kind first. Without examples it shows no kinds."""
    drawn = set(places.further.tolist())
    kinds = []
    for group, rows in zip(reversed(entries.groups if examples else ()), examples, strict=True):
        pictured = [row for row in rows.tolist() if row < places.ranked or row in drawn]
        kinds.append([int(group.kind), int(group.size), round(float(group.separation), 4), bool(group.rare), pictured])
    return {
        "kinds": kinds,
        "firstKinds": _FIRST_KINDS,
        "odd": odd.tolist(),
        "firstOdd": _FIRST_ODD,
        "ranked": places.ranked,
        "further": places.further.tolist(),
    }


def _scores(entries: GalleryEntries) -> list[tuple[str, str, str, NDArray[np.float32]]]:
    """Name, title, meaning and values of each score: what ranks, then the others."""
    first = ("rarity", f"Rarity ({entries.score})", "The larger it is, the rarer the image.", entries.rarity)
    others = []
    for name, values in entries.columns.items():
        title, about = _titled(name)
        if np.array_equal(values, entries.rarity, equal_nan=True):  # shown once, under its own name
            first = (name, title, about, values)
        else:
            others.append((name, title, about, values))
    name, title, about, values = first
    return [(name, title, f"This score ranks the images. {about}".strip(), values), *others]


def _ranked_by(entries: GalleryEntries) -> str:
    """What ranks the images where there is one kind, so that only distances are left to tell them apart."""
    name, title, *_ = _scores(entries)[0]
    distance = name.startswith("distance") or entries.score in ("distance", "kinds")
    return "the distance to their nearest neighbors" if distance else f"this score: {title}"


def _titled(name: str) -> tuple[str, str]:
    """What a score is called on the page, and what it says."""
    for pattern, title, about in _TITLES:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(title), about
    return name.replace("_", " "), ""


def _bytes(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def _json(value: Any) -> str:
    """JSON that may stand in a script: nothing in it can end the script, or a line."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))  # U+2028 and lone surrogates come as \uXXXX
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(**values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("sdclr.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("sdclr.reporting") / "templates"
    scripts = (
        "gallery_model.js",
        "gallery.js",
        "gallery_detail.js",
        "gallery_kinds.js",
        "gallery_encoder.js",
        "gallery_search.js",
        "gallery_events.js",
    )
    styles = ("gallery.css", "gallery_search.css")
    own = {
        "css": Markup("\n".join((folder / name).read_text("utf-8") for name in styles)),  # noqa: S704  # ours
        "js": Markup("\n".join((folder / name).read_text("utf-8") for name in scripts)),  # noqa: S704  # ours
    }
    return environment.get_template("gallery.html.j2").render(version=__version__, **own, **values)


def _remove_others(files: Path, stamp: str) -> None:
    """Remove what an earlier page of this name left, and nothing that is not ours."""
    for file in files.iterdir():
        found = re.fullmatch(r"(?:data|sheet)-([0-9a-f]{12})-\d+\.(?:js|jpg)", file.name)
        if found and found.group(1) != stamp:
            file.unlink()
