"""The page of rare images: one HTML file and a folder beside it, opened from disk, quick with 100,000 images.

Scripts on a page opened from disk may fetch nothing, but pictures and scripts load. So scores lie in scripts, and
thumbnails in sheets of which a browser loads those that are in sight.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from sdclr.data.scan import Progress
from sdclr.data.sources import Source
from sdclr.errors import InputError
from sdclr.files import write_atomically
from sdclr.reporting.thumbnails import SheetPlan, Thumbnails, write_sheets
from sdclr.version import __version__

_CHUNK: Final = 20_000
"""Rows of one script."""

_TITLES: Final = (
    (r"distance_(\d+)", r"Distance to \1 neighbours", "Mean distance to the nearest images. Far from all means rare."),
    (r"density(?:_\d+)?", "Local density", "How crowded it is around the image, as its neighbours see it."),
    (r"cluster_size", "Cluster size", "Images in the same cluster. A small one means rare."),
    (r"loss", "Contrastive loss", "Loss of the image in training's own task. Rare images often have a low one."),
    (
        r"forgetting_projection_([\d.]+)",
        r"Forgetting at \1, projected",
        "How much pruning this share of the weights changes the projection.",
    ),
    (r"forgetting_([\d.]+)", r"Forgetting at \1", "How much pruning this share of the weights changes the features."),
)


@dataclass(frozen=True)
class GalleryEntries:
    """What the page shows of each image. The larger its rarity, the rarer an image is held to be."""

    ids: Sequence[str]
    """Ids of all N images, in the source's order, bad ones included."""
    columns: Mapping[str, NDArray[np.float32]]
    """Further scores by name, each (N,), nan where unknown."""
    rarity: NDArray[np.float32]
    """(N,), what ranks; nan where an image is bad."""
    rank: NDArray[np.int64]
    """(N,), 1 for the rarest; 0 where an image is bad."""
    percentile: NDArray[np.float32]
    """(N,), 100 for the rarest; nan where an image is bad."""
    clusters: NDArray[np.int64]
    """(N,), the cluster of each image; -1 where it has none."""
    bad: Mapping[str, str]
    """Why an image is bad, by id."""
    labels: NDArray[np.int64] | None = None
    """(N,), class ids, -1 where unknown; shown only."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""
    score: str = "rarity"
    """What the rarity is, in a word: "distance"."""


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
    workers: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write the page: an HTML file, and beside it a folder of its name and `_files` with scores and thumbnails.

    Pages written before stay whole until the new one is, and then give way to it.

    Args:
        path: The HTML file; its folder is made if need be.
        entries: The images and their scores.
        source: Gives the pictures; its ids are those of the entries.
        title: The heading.
        summary: What the reader should know, in a few sentences.
        why: Says why an image, by its position, has its rank. By default the page says it from the scores.
        thumbnails: How many of the rarest get a picture; all by default.
        size: Longer side of a thumbnail in pixels; smaller images are kept as they are.
        workers: Processes that decode; 0 decodes in this one.
        progress: Called with (thumbnails done, thumbnails in all).

    Returns:
        The HTML file.

    Raises:
        InputError: The entries contradict each other or the source, a number is out of range, or the path is a folder.
    """
    path = Path(path)
    _check(path, entries, source, thumbnails, size)
    rows = _rows(entries)
    shown = len(rows) if thumbnails is None else min(thumbnails, len(rows))
    files = path.with_name(f"{path.stem}_files")
    stamp = _stamp(entries, rows, shown, size)
    plan = SheetPlan(rows=rows[:shown], size=size, folder=files, prefix=f"sheet-{stamp}-")
    pictures = write_sheets(source, plan, workers=workers, progress=progress)
    scripts = []
    for number, first in enumerate(range(0, len(rows), _CHUNK)):
        scripts.append(f"data-{stamp}-{number:03d}.js")
        text = f"sdclrRows({_json(_chunk(entries, rows, first, pictures, why))});\n"
        write_atomically(files / scripts[-1], text.encode())
    address = quote(files.name, errors="surrogateescape")  # a name may hold what an address may not: #, ?, %
    page = _page(
        title=title,
        summary=summary,
        meta=Markup(_json(_meta(entries, rows, pictures, plan, address))),  # noqa: S704  # escaped by _json
        files=address,
        scripts=scripts,
        nonce=stamp,
    )
    write_atomically(path, page.encode(errors="replace"))
    _remove_others(files, stamp)
    return path


def _check(path: Path, entries: GalleryEntries, source: Source, thumbnails: int | None, size: int) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the page a file name, such as {path / 'rare.html'}")
    count = len(entries.ids)
    columns: dict[str, NDArray[Any] | None] = {
        **entries.columns,
        "rarity": entries.rarity,
        "rank": entries.rank,
        "percentile": entries.percentile,
        "clusters": entries.clusters,
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
    if thumbnails is not None and thumbnails < 0:
        raise InputError(f"thumbnails={thumbnails}: give 0 or more, or None for all")
    if not 16 <= size <= 1024:
        raise InputError(f"size={size}: give thumbnails 16 to 1024 pixels")


def _rows(entries: GalleryEntries) -> NDArray[np.int64]:
    """Positions of the ranked images, the rarest first: row r of the page is image rows[r]."""
    ranked = np.flatnonzero(entries.rank > 0)
    return ranked[np.argsort(entries.rank[ranked], kind="stable")]


def _stamp(entries: GalleryEntries, rows: NDArray[np.int64], shown: int, size: int) -> str:
    """Tells one page's files from another's."""
    digest = hashlib.sha256(f"{shown} {size} {__version__}".encode())
    digest.update("\0".join(entries.ids).encode("utf-8", "surrogatepass"))
    for values in (rows, entries.rarity, entries.clusters, *entries.columns.values()):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:12]


def _chunk(
    entries: GalleryEntries,
    rows: NDArray[np.int64],
    first: int,
    pictures: Thumbnails,
    why: Callable[[int], str] | None,
) -> dict[str, Any]:
    """What the page is told of `_CHUNK` images, numbers as little-endian bytes in base64."""
    part = rows[first : first + _CHUNK]
    sizes = np.zeros((len(part), 2), dtype=np.uint16)
    known = pictures.sizes[first : first + _CHUNK]
    sizes[: len(known)] = known
    chunk = {
        "first": first,
        "ids": [entries.ids[position] for position in part.tolist()],
        "rank": _bytes(entries.rank[part], "<i4"),
        "percentile": _bytes(entries.percentile[part], "<f4"),
        "cluster": _bytes(entries.clusters[part], "<i4"),
        "scores": [_bytes(values[part], "<f4") for *_, values in _scores(entries)],
        "sizes": _bytes(sizes, "<u2"),
    }
    if entries.labels is not None:
        chunk["label"] = _bytes(entries.labels[part], "<i4")
    if why is not None:
        chunk["why"] = [why(position) for position in part.tolist()]
    return chunk


def _meta(
    entries: GalleryEntries, rows: NDArray[np.int64], pictures: Thumbnails, plan: SheetPlan, files: str
) -> dict[str, Any]:
    """What the page is told of the collection."""
    bad = [[image_id, f"not scored: {reason}"] for image_id, reason in entries.bad.items()]
    bad += [[item.id, f"no picture: {item.reason}"] for item in pictures.bad if item.id not in entries.bad]
    return {
        "rows": len(rows),
        "images": len(entries.ids),
        "scores": [{"name": name, "title": title, "about": about} for name, title, about, _ in _scores(entries)],
        "labelled": entries.labels is not None,
        "classes": list(entries.classes),
        "bad": bad,
        "pictures": len(plan.rows),
        "sheets": [f"{files}/{name}" for name in pictures.sheets],
        "cells": pictures.cells,
        "across": plan.across,
    }


def _scores(entries: GalleryEntries) -> list[tuple[str, str, str, NDArray[np.float32]]]:
    """Name, title, meaning and values of each score: what ranks, then the others."""
    first = ("rarity", f"Rarity ({entries.score})", "The larger, the rarer the image is held to be.", entries.rarity)
    others = []
    for name, values in entries.columns.items():
        title, about = _titled(name)
        if np.array_equal(values, entries.rarity, equal_nan=True):  # once under its own name says more than twice
            first = (name, title, about, values)
        else:
            others.append((name, title, about, values))
    name, title, about, values = first
    return [(name, title, f"Ranks the images. {about}".strip(), values), *others]


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
    scripts = ("gallery_model.js", "gallery.js", "gallery_events.js")
    own = {
        "css": Markup((folder / "gallery.css").read_text("utf-8")),  # noqa: S704  # ours
        "js": Markup("\n".join((folder / name).read_text("utf-8") for name in scripts)),  # noqa: S704  # ours
    }
    return environment.get_template("gallery.html.j2").render(version=__version__, **own, **values)


def _remove_others(files: Path, stamp: str) -> None:
    """Remove what an earlier page of this name left, and nothing that is not ours."""
    for file in files.iterdir():
        found = re.fullmatch(r"(?:data|sheet)-([0-9a-f]{12})-\d+\.(?:js|jpg)", file.name)
        if found and found.group(1) != stamp:
            file.unlink()
