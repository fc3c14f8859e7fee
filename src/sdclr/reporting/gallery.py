"""Write the page of rare images: one HTML file and a folder next to it, fast with 100,000 images.

Scripts of a page opened from disk cannot fetch files, but can load images and scripts. So the scores are stored in
scripts, and the thumbnails in sheets. A browser loads only the visible sheets.
"""

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sdclr.data.sources import Source
from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.files import remove, write_atomically
from sdclr.progress import stage
from sdclr.reporting.config import PAGE_IMAGES
from sdclr.reporting.elements import template
from sdclr.reporting.gallery_data import (
    CHUNK,
    Pictures,
    as_json,
    digest,
    page_meta,
    page_rows,
    ranked_by,
    row_chunk,
    thumbnail_places,
)
from sdclr.reporting.gallery_entries import GalleryEntries, KindGroup, NearestOld, check_entries, in_short
from sdclr.reporting.gallery_plain import plain_gallery
from sdclr.reporting.page_search import remove_searches, write_search
from sdclr.reporting.search_index import LIMIT
from sdclr.reporting.thumbnails import SheetPlan, write_sheets
from sdclr.version import __version__
from sdclr.visible import visible

__all__ = ["GalleryEntries", "KindGroup", "NearestOld", "write_gallery"]

_STYLES: Final = ("gallery.css", "gallery_search.css")

_SCRIPTS: Final = (
    "gallery_model.js",
    "gallery.js",
    "gallery_marks.js",
    "gallery_map.js",
    "gallery_detail.js",
    "gallery_kinds.js",
    "gallery_overview.js",
    "gallery_encoder.js",
    "gallery_search.js",
    "gallery_events.js",
)


@stage("writing the page")
def write_gallery(
    path: str | Path,
    entries: GalleryEntries,
    source: Source,
    *,
    title: str,
    why: Callable[[int], str] | None = None,
    thumbnails: int | None = None,
    images: int = PAGE_IMAGES,
    size: int = 112,
    features: NDArray[np.floating[Any]] | None = None,
    encoder: Encoder | None = None,
    search_limit: int = LIMIT,
    workers: int = 0,
) -> Path:
    """Write the page: an HTML file, and next to it a folder `NAME_files` with scores and thumbnails.

    The page summarizes the collection: kinds from rarest to largest, a map, odd images, near-duplicates and the images
    to label next. It lists all images by rank, and saves marks. An earlier page stays complete until the new page is
    complete and replaces it. Without scripts, the page shows static pictures.

    Args:
        path: The HTML file; its folder is created if missing.
        entries: The images, their scores, kinds and odd images.
        source: The images, with the same ids as the entries.
        title: The heading.
        why: Explains the rank of an image, given its position. By default the page explains it from the scores.
        thumbnails: Number of the rarest images with a thumbnail; all by default. Images at the top of the page always
            have one.
        images: Number of the rarest images to list. Images at the top of the page are listed in addition.
        size: Longer side of a thumbnail in pixels; smaller images are not enlarged.
        features: (N, D), to find similar images on the page; nan for bad images. May be memory-mapped.
        encoder: The encoder of the features. The page accepts image files as queries if a browser can run it.
        search_limit: Maximum bytes of the feature index; above it the page has no search by similarity.
        workers: Number of decoding processes; 0 decodes in this process.

    Returns:
        Path of the HTML file.

    Raises:
        InputError: The entries contradict each other or the source, the features do not match the images, a number
            is out of range, or the path is a folder.
    """
    path = Path(path)
    _check(path, thumbnails, images, size)
    check_entries(entries, source)
    rows = page_rows(entries, images)
    places = thumbnail_places(rows, thumbnails)
    files = path.with_name(f"{path.stem}_files")
    stamp = digest(entries, rows, f"{places.ranked} {size} {__version__}")
    drawn = places.drawn()
    plan = SheetPlan(rows=rows.positions[drawn], size=size, folder=files, prefix=f"sheet-{stamp}-")
    sheets = write_sheets(source, plan, workers=workers)
    sizes = np.zeros((len(rows.positions), 2), dtype=np.uint16)
    sizes[drawn] = sheets.sizes
    scripts = []
    for number, first in enumerate(range(0, len(rows.positions), CHUNK)):
        scripts.append(f"data-{stamp}-{number:03d}.js")
        chunk = row_chunk(entries, source, rows.positions, first, sizes=sizes, why=why, page=path)
        write_atomically(files / scripts[-1], f"sdclrRows({as_json(chunk)});\n".encode())
    address = quote(files.name, errors="surrogateescape")  # a name may contain #, ? or %
    pictures = Pictures(places, sheets, plan, address)
    plain = plain_gallery(entries, rows, pictures)
    search = write_search(files, stamp, features, rows.positions, source, encoder=encoder, limit=search_limit)
    known = page_meta(entries, source, rows, pictures) | {"search": search and search | {"files": address}}
    page = _page(
        title=visible(title),
        short=in_short(entries),
        listed=len(rows.positions) if len(rows.positions) < rows.ranked else None,
        several=len(entries.groups) > 1,
        ranked_by=ranked_by(entries),
        against=entries.old is not None and len(entries.groups) > 1,
        meta=Markup(as_json(known)),  # noqa: S704  # escaped by as_json
        files=address,
        scripts=scripts,
        plain=plain.sections,
        plain_styles=Markup(plain.styles),  # noqa: S704  # numbers and our own file names
        searches=search is not None,
        nonce=stamp,
    )
    write_atomically(path, page.encode(errors="replace"))
    _remove_others(files, stamp)
    remove_searches(files, search)
    return path


def _check(path: Path, thumbnails: int | None, images: int, size: int) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the page a file name, such as {path / 'rare.html'}")
    if thumbnails is not None and thumbnails < 0:
        raise InputError(f"thumbnails={thumbnails}: give 0 or more, or None for all")
    if images < 1:
        raise InputError(f"images={images}: give 1 or more")
    if not 16 <= size <= 1024:
        raise InputError(f"size={size}: give thumbnails 16 to 1024 pixels")


def _page(**values: Any) -> str:
    folder = resources.files("sdclr.reporting") / "templates"
    own = {
        "css": Markup("\n".join((folder / name).read_text("utf-8") for name in _STYLES)),  # noqa: S704  # ours
        "js": Markup("\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)),  # noqa: S704  # ours
    }
    return template("gallery.html.j2").render(version=__version__, **own, **values)


def _remove_others(files: Path, stamp: str) -> None:
    """Remove the files of an earlier page of this name, and no other files."""
    for file in files.iterdir():
        found = re.fullmatch(r"\.?(?:data|sheet)-([0-9a-f]{12})-\d+\.(?:js|jpg)(?:\.tmp)?", file.name)
        if found and found.group(1) != stamp:
            remove(file)
