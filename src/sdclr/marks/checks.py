"""Check that outputs do not damage the images, the marks or each other."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sdclr.data.sources import FolderSource, ImageSource
from sdclr.errors import InputError
from sdclr.marks.match import Matched
from sdclr.marks.rows import Marks

_FOLDERS: Final = ("links", "classes", "move_dropped")


def check_targets(outputs: Mapping[str, Path], marks: Marks, matched: Matched, images: ImageSource | None) -> list[str]:
    """Check that no output replaces an image or the marks, or is inside the images or another output.

    Args:
        outputs: Paths by name.
        marks: The marks, whose files must not be replaced.
        matched: The images.
        images: The collection as the caller named it.

    Returns:
        Warnings, one sentence each.

    Raises:
        InputError: An output does so. The message names it.
    """
    where = {name: Path(os.path.realpath(path)) for name, path in outputs.items()}
    _check_apart(outputs, where)
    files = {os.path.realpath(path) for path in marks.files}
    if isinstance(images, (str, Path)):
        files.add(os.path.realpath(Path(images).expanduser()))
    for name, path in where.items():
        if str(path) in files and path.is_file():
            raise InputError(f"{_option(name)} {outputs[name]}: is an input file; give another name")
    _check_pictures(outputs, where, matched)
    return _among_images(outputs, where, matched)


def _check_apart(outputs: Mapping[str, Path], where: Mapping[str, Path]) -> None:
    for name, path in where.items():
        for other, folder in where.items():
            inside = name != other and (path == folder or (other in _FOLDERS and path.is_relative_to(folder)))
            if inside:
                raise InputError(
                    f"{_option(name)} {outputs[name]}: is at or inside {_option(other)} {outputs[other]}; give "
                    "each output a separate path"
                )
        if name not in _FOLDERS and path.is_dir():
            raise InputError(f"{_option(name)} {outputs[name]}: is a folder; give a file name")


def _check_pictures(outputs: Mapping[str, Path], where: Mapping[str, Path], matched: Matched) -> None:
    """Raise an error if an existing output is an image of the collection under any name."""
    there = {name: path.stat() for name, path in where.items() if name not in _FOLDERS and path.is_file()}
    if not there:
        return
    for picture in (*matched.kept, *matched.dropped):
        if picture.file is None:
            continue
        for name, known in there.items():
            if os.path.samestat(known, picture.file.stat()):
                raise InputError(f"{_option(name)} {outputs[name]}: is the image {picture.id!r}; give another name")


def _among_images(outputs: Mapping[str, Path], where: Mapping[str, Path], matched: Matched) -> list[str]:
    """Raise an error for folders inside the image folder, or warn if the root is only inferred."""
    root, sure = _root(matched), isinstance(matched.source, FolderSource)
    if root is None:
        return []
    root, notes = Path(os.path.realpath(root)), []
    for name in _FOLDERS:
        path = where.get(name)
        if path is None or not path.is_relative_to(root):
            continue
        below = path.relative_to(root).parts
        if any(part.startswith(".") for part in below):  # hidden folders are not part of a collection
            continue
        if sure:
            raise InputError(
                f"{_option(name)} {outputs[name]}: is inside {root}, the folder of the images, so its files would "
                "be read as images; give a folder outside"
            )
        notes.append(f"{outputs[name]} is inside {root}: if that folder is mined again, its files are found twice.")
    return notes


def _root(matched: Matched) -> Path | None:
    """The folder that image ids are relative to; None if the paths do not show it."""
    for picture in (*matched.kept, *matched.dropped):
        if picture.file is not None and str(picture.file).endswith(f"/{picture.id}"):
            return Path(str(picture.file).removesuffix(f"/{picture.id}") or "/")
    return None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
