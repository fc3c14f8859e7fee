"""Match marks to images: to files, or to positions in a collection."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sdclr.data.source import label_name
from sdclr.data.sources import ImageSource, Source, image_file
from sdclr.errors import InputError
from sdclr.features.embeddings import open_images
from sdclr.marks.rows import Mark, Marks, joined
from sdclr.marks.table import is_marks

_UNKNOWN = "\ufffd"
"""Character that a browser writes for a byte that is not UTF-8."""


class Picture(NamedTuple):
    """One image with its label and file."""

    id: str
    label: str
    """Label of its mark, otherwise of its collection; "" without a label."""
    file: Path | None
    """Absolute path; None if the image is not an individual file."""
    position: int | None
    """Position in the collection; None without a collection."""
    where: str
    """The row that marks it, or "" for an image without a mark."""


@dataclass(frozen=True)
class Matched:
    """The images that marks refer to."""

    kept: list[Picture]
    """Images that are not dropped: of the whole collection if given, otherwise of the marked images."""
    dropped: list[Picture]
    missing: list[Picture]
    """Images whose file does not exist; neither kept nor dropped."""
    unknown: list[Mark] = field(default_factory=list)
    """Marks of images that are not in the collection."""
    silent: int = 0
    """Number of rows without a mark and a label."""
    source: Source | None = None


def open_collection(images: ImageSource) -> Source:
    """Open the marked collection: any input of `open_source`, or embeddings whose ids name files.

    Raises:
        InputError: The collection cannot be opened.
    """
    if isinstance(images, (str, Path)) and is_marks(Path(images)):
        raise InputError(f"{images}: is a file of marks, not of images; name further files of marks by --also {images}")
    return open_images(images)


def match(marks: Marks, source: Source | None, *, only_marked: bool = False) -> Matched:
    """Find the images that marks refer to.

    Args:
        marks: The marks.
        source: The collection, searched by id, then by path. Without it the paths of the rows are used.
        only_marked: Leave out images of the collection that have no mark and no label.

    Returns:
        The images. With a collection, they are in its order, and unmarked images keep their labels in it.

    Raises:
        InputError: No mark belongs to the collection, a browser's id matches two images, or one file is both dropped
            and kept under two ids.
    """
    silent = sum(not row.mark and not row.label for row in marks.rows)
    if source is None:
        said = [row for row in marks.rows if row.mark or row.label]
        pictures = [
            (Picture(row.name, row.label, Path(row.path) if row.path else None, None, row.where), row.mark == "drop")
            for row in said
        ]
        unknown: list[Mark] = []
    else:
        found, unknown = _places(marks, source)
        pictures = list(_pictures(source, found, only_marked=only_marked))
    kept: list[Picture] = []
    dropped: list[Picture] = []
    missing: list[Picture] = []
    for picture, drop in pictures:
        if picture.file is not None and not os.path.isfile(picture.file):  # noqa: PTH113  # False for a NUL in the name
            missing.append(picture)
        else:
            (dropped if drop else kept).append(picture)
    _check_apart(kept, dropped)
    return Matched(kept, dropped, missing, unknown, silent, source)


def _places(marks: Marks, source: Source) -> tuple[dict[int, Mark], list[Mark]]:
    """Marks by image position, and marks of images outside the collection."""
    place_of = {image_id: place for place, image_id in enumerate(source.ids)}
    by_path: dict[str, int] | None = None
    garbled: dict[str, list[int]] | None = None
    found: dict[int, Mark] = {}
    unknown = []
    for row in marks.rows:
        place = place_of.get(row.name)
        if place is None and _UNKNOWN in row.id:
            garbled = _garbled(source.ids) if garbled is None else garbled
            several = garbled.get(row.id, [])
            if len(several) > 1:
                first, second = (source.ids[other] for other in several[:2])
                raise InputError(
                    f"{row.where}: {row.id!r} may be {first!r} or {second!r}, names that are not UTF-8; rename one"
                )
            place = several[0] if several else None
        if place is None and row.path:
            by_path = _by_path(source) if by_path is None else by_path
            place = by_path.get(row.path)
        if place is None:
            unknown.append(row)
        else:
            found[place] = joined(found[place], row) if place in found else row
    if not found and unknown:
        row = unknown[0]
        raise InputError(
            f"{row.where or 'the marks'}: {row.name!r} is not among the images of {source.name}, nor is any other "
            f"that is marked; ids there look like {source.ids[0]!r}: give the images that were marked"
        )
    return found, unknown


def _garbled(ids: Sequence[str]) -> dict[str, list[int]]:
    """Positions of images whose names are not UTF-8, keyed by the name that a browser writes."""
    found: dict[str, list[int]] = {}
    for place, image_id in enumerate(ids):
        if not image_id.isascii():
            plain = "".join(_UNKNOWN if "\ud800" <= letter <= "\udfff" else letter for letter in image_id)
            if plain != image_id:
                found.setdefault(plain, []).append(place)
    return found


def _by_path(source: Source) -> dict[str, int]:
    files = ((place, image_file(source, place)) for place in range(len(source)))
    return {str(absolute(file)): place for place, file in files if file is not None}


def _pictures(source: Source, found: dict[int, Mark], *, only_marked: bool) -> Iterator[tuple[Picture, bool]]:
    for place, image_id in enumerate(source.ids):
        row = found.get(place)
        said = row is not None and bool(row.mark or row.label)
        if only_marked and not said:
            continue
        file = image_file(source, place)
        label = row.label if row is not None and row.label else label_name(source, place)
        where = row.where if row is not None and said else ""
        picture = Picture(image_id, label, None if file is None else absolute(file), place, where)
        yield picture, row is not None and row.mark == "drop"


def absolute(path: Path) -> Path:
    """An absolute path without `..`. Unlike `resolve`, it follows no links."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _check_apart(kept: Sequence[Picture], dropped: Sequence[Picture]) -> None:
    drops = {picture.file: picture for picture in dropped if picture.file is not None}
    both = next((picture for picture in kept if picture.file in drops), None) if drops else None
    if both is not None and both.file is not None:
        other = drops[both.file]
        raise InputError(
            f"{other.where}: {other.id!r} is dropped, but {both.id!r}, which is not, is the same file {both.file}; "
            "mark both alike"
        )
