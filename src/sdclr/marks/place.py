"""Put images into a folder as links, copies or new files: each whole or not at all, and never over another file."""

import errno
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from PIL import Image

from sdclr.data.sources import Source, image_bytes
from sdclr.decoding.formats import ENDINGS, SUFFIXES, formats
from sdclr.errors import BadImageError, InputError
from sdclr.files import (
    NO_LINKS,
    csv_bytes,
    make_folder,
    read_json,
    remove,
    storing,
    streamed,
    write_atomically,
    write_json,
)
from sdclr.marks.match import Picture
from sdclr.progress import stage

How = Literal["symlink", "hardlink", "copy"]
"""How an image that is a file comes into another folder."""

MANIFEST: Final = "manifest.csv"
"""Lists the images of a folder that was written: path (relative to it), id, label."""
TABLE: Final = "classes.csv"
"""Says which folder holds which label."""

_OURS: Final = ".sdclr-apply.json"
_ASIDE: Final = ".sdclr-apply.tmp"
_FORMAT: Final = "sdclr-apply-1"
_BLOCK: Final = 2**20
_OWN: Final = frozenset({_OURS, f".{_OURS}.tmp", _ASIDE, MANIFEST, f".{MANIFEST}.tmp", TABLE, f".{TABLE}.tmp"})
RESERVED: Final = (MANIFEST, TABLE)
"""Names at the top of a folder that no image takes."""


class Placed(NamedTuple):
    """One image and its place in a folder."""

    picture: Picture
    path: str
    """Relative to the folder, with `/`."""


class Written(NamedTuple):
    """What came into a folder."""

    placed: list[Placed]
    """Images that are there now, those of an earlier, interrupted call included."""
    unreadable: list[tuple[Picture, str]]
    """Images that could not be read, with the reason."""


def stored_image(source: Source, position: int) -> tuple[bytes, str]:
    """An image that is no file of its own, as the contents of one: as it is stored, or else PNG.

    Args:
        source: The collection.
        position: The image's place in it.

    Returns:
        The bytes, and the ending that goes with them, such as ".jpg".

    Raises:
        BadImageError: If it cannot be read.
    """
    data = image_bytes(source, position)
    if data is None:
        pixels = source.image(position)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return buffer.getvalue(), ".png"
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            return data, ENDINGS[str(image.format)][0]
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile bytes
        raise BadImageError(source.ids[position], "not an image") from error


def suffix_of(picture: Picture, source: Source | None) -> str:
    """The ending that a file of this image gets if its id has none.

    Raises:
        BadImageError: If it is stored as something that is no image.
    """
    if picture.file is not None:
        return file_suffix(picture.file)
    if source is None or picture.position is None or image_bytes(source, picture.position) is None:
        return ".png"
    return stored_image(source, picture.position)[1]


def file_suffix(file: Path) -> str:
    """The ending of an image file, "" if it has none that is known."""
    return file.suffix if file.suffix.lower() in SUFFIXES else ""


def check_folder(folder: Path, planned: Sequence[str]) -> None:
    """Check that a folder is new, empty, or one that an earlier call with the same images left.

    Args:
        folder: The folder.
        planned: Relative paths of the images that shall be in it.

    Raises:
        InputError: If it is something else; names what is in the way.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{folder}: is there already and no folder; give a new folder")
    if not folder.is_dir() or {file.name for file in folder.iterdir()} <= {f".{_OURS}.tmp"}:  # left by a killed call
        return
    mark = folder / _OURS
    if not mark.is_file() or read_json(mark).get("format") != _FORMAT:
        raise InputError(
            f"{folder}: is not empty, and not a folder that `sdclr apply` wrote; give a new or empty folder"
        )
    wanted = set(planned) | _OWN
    strange = next((entry for entry in _entries(folder) if entry not in wanted), None)
    if strange is not None:
        raise InputError(
            f"{folder}: holds {strange!r}, which these marks do not put there; give a new folder, or remove this one"
        )


def place(folder: Path, plan: Sequence[Placed], how: How, source: Source | None) -> Written:
    """Put images into a folder that `check_folder` has passed. What is there already is left as it is.

    Args:
        folder: The folder; made if it is missing.
        plan: The images and their places.
        how: How those that are files come there. All others are written as files.
        source: The collection, for images that are no files.

    Raises:
        InputError: If the folder cannot hold such links, or has another file in an image's place.
        StorageError: If the folder cannot be written.
    """
    placed, unreadable = [], []
    write_json(folder / _OURS, {"format": _FORMAT, "about": "`sdclr apply` wrote this folder and may add to it"})
    remove(folder / _ASIDE)  # what a killed call has left
    with stage("placing images", len(plan)) as update:
        for number, one in enumerate(plan, start=1):
            make_folder((folder / one.path).parent)
            try:
                _place_one(folder, one, how, source)
            except BadImageError as error:
                unreadable.append((one.picture, error.reason))
            else:
                placed.append(one)
            update(number)
    return Written(placed, unreadable)


def write_list(folder: Path, placed: Sequence[Placed]) -> None:
    """Write the manifest of a folder."""
    # Manifest readers trim blanks at the beginning of a path.
    paths = (f"./{one.path}" if one.path[0].isspace() else one.path for one in placed)
    rows = ((path, one.picture.id, one.picture.label) for path, one in zip(paths, placed, strict=True))
    write_atomically(folder / MANIFEST, csv_bytes([("path", "id", "label"), *rows], quote_all=True))


def _place_one(folder: Path, one: Placed, how: How, source: Source | None) -> None:
    target, file = folder / one.path, one.picture.file
    data = None
    if file is None:
        assert source is not None  # noqa: S101  # for mypy: images without files come from a collection
        assert one.picture.position is not None  # noqa: S101  # likewise
        data, _ = stored_image(source, one.picture.position)
    if os.path.lexists(target):
        if not _is_it(target, file, data, how):
            raise InputError(f"{target}: is there already, with other contents; remove it, or give a new folder")
    elif file is None or how == "copy":
        size = file.stat().st_size if file is not None and file.is_file() else len(data or b"")
        with streamed(target, size=size, aside=folder / _ASIDE, replace=False) as written:
            for block in [data or b""] if file is None else _blocks(file, one.picture.id):
                written.write(block)
            written.flush()
            if file is not None:
                shutil.copystat(file, folder / _ASIDE)
    else:
        with storing(target):
            _link(file, target, how)


def _link(file: Path, target: Path, how: How) -> None:
    try:
        if how == "symlink":
            target.symlink_to(file)
        else:
            os.link(os.path.realpath(file), target)
    except OSError as error:
        kind = "symbolic links" if how == "symlink" else "hard links"
        if error.errno == errno.EXDEV:
            raise InputError(
                f"{target}: lies on another disk than {file}, which hard links cannot; use --copy"
            ) from error
        if error.errno in NO_LINKS:
            raise InputError(
                f"{target.parent}: {kind} cannot be created there ({error.strerror}); use --copy"
            ) from error
        raise


def _blocks(file: Path, image_id: str) -> Iterator[bytes]:
    """The contents of a file, piece by piece.

    Raises:
        BadImageError: It cannot be read.
    """
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                yield block
    except OSError as error:
        raise BadImageError(image_id, f"cannot be read ({error.strerror})") from error


def _is_it(target: Path, file: Path | None, data: bytes | None, how: How) -> bool:
    """Whether what an earlier call left is what this one would put there."""
    if file is None:
        return not target.is_symlink() and target.is_file() and target.read_bytes() == data
    if how == "symlink":
        return target.is_symlink() and target.readlink() == file
    if target.is_symlink() or not target.is_file():
        return False
    if how == "hardlink":
        return target.samefile(file)
    ours, theirs = target.stat(), file.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns) and not target.samefile(file)


def _entries(folder: Path) -> Iterator[str]:
    """Relative paths of all that lies below a folder but real folders; links to folders are entries, not entered."""

    def stop(error: OSError) -> Any:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); give a new folder") from error

    for place_, folders, files in os.walk(folder, onerror=stop):
        below = Path(place_).relative_to(folder)
        linked = [name for name in folders if (Path(place_) / name).is_symlink()]
        for name in (*files, *linked):
            yield (below / name).as_posix()
