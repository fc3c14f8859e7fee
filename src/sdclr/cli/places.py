"""Paths of commands, checked before any long work."""

import dataclasses
import os
import stat
from pathlib import Path
from typing import Any, Final

from sdclr.errors import InputError, StorageError
from sdclr.files import absent_images, looking_at

_FILES: Final = {"csv", "json", "fiftyone", "marks", "manifest", "drop_list"}
"""Options that name a file to write."""
_FOLDERS: Final = {"run", "figures", "folder", "links", "classes", "move_dropped"}
"""Options that name a folder to write into."""
_OUT: Final = {
    **dict.fromkeys(("select", "diagnose", "duplicates", "neighbors", "report"), "file"),
    **dict.fromkeys(("mine", "evaluate", "evaluate-attributes", "finetune", "reproduce", "bench"), "folder"),
    "embed": "either",
}
"""Type of the option --out of each command."""
_FINISHED: Final = {"duplicates", "finetune", "pretrain", "select"}
"""Commands that write nothing to a folder if it contains their result, or the features that they need."""


def check_places(name: str, command: Any) -> None:
    """Check that the images of a command exist, and that it can write its output.

    Args:
        name: The command's name.
        command: Its options.

    Raises:
        InputError: If the images do not exist, or a file is given instead of a folder, or the reverse.
        StorageError: If there is no permission to write there, or the file system is read-only.
    """
    images = getattr(command, "images", None)
    # A colon or an equals sign may name a format, a split or an option.
    if isinstance(images, str) and images and images != "digits" and not {":", "="} & set(images):
        place = Path(images).expanduser()
        with looking_at(place):
            if not place.exists():
                raise absent_images(place)
    for field in dataclasses.fields(command):
        path = getattr(command, field.name)
        if not isinstance(path, Path):
            continue
        kind = "file" if field.name in _FILES else "folder" if field.name in _FOLDERS else None
        kind = _OUT.get(name) if field.name == "out" else kind
        if kind is not None:
            place = path.expanduser()
            said = f"--{field.name.replace('_', '-')} {path}"
            _check(place, said, kind)
            read = (name, field.name) == ("apply", "marks") or getattr(command, "dry_run", False)
            finished = kind == "folder" and name in _FINISHED and place.exists()
            if not read and not finished:
                _check_permission(place, said, kind)


def _check_permission(path: Path, said: str, kind: str) -> None:
    within = path.is_dir() and kind != "file"
    folder = path if within else next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"{said}: {folder} cannot be written: no permission, or a read-only disk: allow it or choose another folder"
        )


def _check(path: Path, said: str, kind: str) -> None:
    try:
        for parent in path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise InputError(f"{said}: {parent} is a file, not a folder; name another place")
                break
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{said}: cannot be written ({error.strerror}); name another place") from error
    if kind == "file" and not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{said}: is {what}; name a file to write")
    if kind == "folder" and not stat.S_ISDIR(mode):
        raise InputError(f"{said}: is a file; name a folder to write into")
