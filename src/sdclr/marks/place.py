"""Place images in a folder as links, copies or new files. Writes are atomic and replace no file."""

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
    make_folder,
    read_json,
    remove,
    storing,
    streamed,
    write_csv,
    write_json,
)
from sdclr.marks.match import Picture
from sdclr.progress import stage

How = Literal["symlink", "hardlink", "copy"]
"""How an image file is placed in another folder."""

MANIFEST: Final = "manifest.csv"
"""Manifest of a written folder: path (relative to the folder), id, label."""
TABLE: Final = "classes.csv"
"""Table that maps folders to labels."""

_OURS: Final = ".sdclr-apply.json"
_ASIDE: Final = ".sdclr-apply.tmp"
_FORMAT: Final = "sdclr-apply-1"
_BLOCK: Final = 2**20
_OWN: Final = frozenset({_OURS, f".{_OURS}.tmp", _ASIDE, MANIFEST, f".{MANIFEST}.tmp", TABLE, f".{TABLE}.tmp"})
RESERVED: Final = (MANIFEST, TABLE)
"""Names at the top of a folder that no image may use."""


class Placed(NamedTuple):
    """One image and its path in a folder."""

    picture: Picture
    path: str
    """Relative to the folder, with `/`."""


class Written(NamedTuple):
    """Result of `place`."""

    placed: list[Placed]
    """Images in the folder, including those of an earlier, interrupted call."""
    unreadable: list[tuple[Picture, str]]
    """Unreadable images, with the reason."""


def stored_image(source: Source, position: int) -> tuple[bytes, str]:
    """File contents for an image that is not an individual file: the stored bytes, otherwise PNG.

    Args:
        source: The collection.
        position: The image's position in it.

    Returns:
        The bytes, and the matching file extension, such as ".jpg".

    Raises:
        BadImageError: The image is unreadable.
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
    """File extension for this image if its id has none.

    Raises:
        BadImageError: The stored bytes are not an image.
    """
    if picture.file is not None:
        return file_suffix(picture.file)
    if source is None or picture.position is None or image_bytes(source, picture.position) is None:
        return ".png"
    return stored_image(source, picture.position)[1]


def file_suffix(file: Path) -> str:
    """Extension of an image file, "" if it has no known one."""
    return file.suffix if file.suffix.lower() in SUFFIXES else ""


def check_folder(folder: Path, planned: Sequence[str]) -> None:
    """Check that a folder is new, empty, or left by an earlier call with the same images.

    Args:
        folder: The folder.
        planned: Relative paths of the images to place in it.

    Raises:
        InputError: The folder is none of these. The message names the unexpected entry.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{folder}: exists and is not a folder; give a new folder")
    if not folder.is_dir() or {file.name for file in folder.iterdir()} <= {f".{_OURS}.tmp"}:  # left by a killed call
        return
    mark = folder / _OURS
    if not mark.is_file() or read_json(mark).get("format") != _FORMAT:
        raise InputError(
            f"{folder} is not empty, and not a folder that `sdclr apply` wrote; give a new or empty folder"
        )
    wanted = set(planned) | _OWN
    strange = next((entry for entry in _entries(folder) if entry not in wanted), None)
    if strange is not None:
        raise InputError(
            f"{folder}: contains {strange!r}, which these marks do not place; give a new folder, or remove this one"
        )


def place(folder: Path, plan: Sequence[Placed], how: How, source: Source | None) -> Written:
    """Place images in a folder that passed `check_folder`. Files already there stay unchanged.

    Args:
        folder: The folder; created if missing.
        plan: The images and their paths.
        how: How to place images that are files. All others are written as files.
        source: The collection, for images that are not files.

    Raises:
        InputError: The folder does not support such links, or another file has the path of an image.
        StorageError: The folder cannot be written.
    """
    placed, unreadable = [], []
    write_json(folder / _OURS, {"format": _FORMAT, "about": "`sdclr apply` wrote this folder and may add to it"})
    remove(folder / _ASIDE)  # left by a killed call
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
    # Manifest readers trim leading spaces of a path.
    paths = (f"./{one.path}" if one.path[0].isspace() else one.path for one in placed)
    rows = ((path, one.picture.id, one.picture.label) for path, one in zip(paths, placed, strict=True))
    write_csv(folder / MANIFEST, ("path", "id", "label"), rows, quote_all=True)


def _place_one(folder: Path, one: Placed, how: How, source: Source | None) -> None:
    target, file = folder / one.path, one.picture.file
    data = None
    if file is None:
        assert source is not None  # noqa: S101  # for mypy: images without files come from a collection
        assert one.picture.position is not None  # noqa: S101  # likewise
        data, _ = stored_image(source, one.picture.position)
    if os.path.lexists(target):
        if not _is_it(target, file, data, how):
            raise InputError(f"{target}: exists with other contents; remove it, or give a new folder")
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
                f"{target}: is on another disk than {file}, where hard links are impossible; use --copy"
            ) from error
        if error.errno in NO_LINKS:
            raise InputError(
                f"{target.parent}: {kind} cannot be created there ({error.strerror}); use --copy"
            ) from error
        raise


def _blocks(file: Path, image_id: str) -> Iterator[bytes]:
    """Yield the contents of a file in blocks.

    Raises:
        BadImageError: The file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                yield block
    except OSError as error:
        raise BadImageError(image_id, f"cannot be read ({error.strerror})") from error


def _is_it(target: Path, file: Path | None, data: bytes | None, how: How) -> bool:
    """Whether an existing target is what this call would place there."""
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
    """Relative paths of all files and links below a folder. Links to folders count as entries."""

    def stop(error: OSError) -> Any:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); give a new folder") from error

    for place_, folders, files in os.walk(folder, onerror=stop):
        below = Path(place_).relative_to(folder)
        linked = [name for name in folders if (Path(place_) / name).is_symlink()]
        for name in (*files, *linked):
            yield (below / name).as_posix()
