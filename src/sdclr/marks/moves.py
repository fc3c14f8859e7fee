"""Move files to another folder with a log, and move them back."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from sdclr.errors import InputError, StorageError
from sdclr.files import make_folder, put, read_csv, refused, streamed, write_csv
from sdclr.marks.match import Picture
from sdclr.marks.names import relative_names
from sdclr.marks.place import file_suffix
from sdclr.progress import stage

LOG: Final = "moved.csv"
"""Log in a folder of moved files. Columns: from (absolute), to (relative to the log's folder), id."""
_ASIDE: Final = ".sdclr-move.tmp"
_HEADER: Final = ("from", "to", "id")


@dataclass(frozen=True)
class Undone:
    """Result of `undo_moves`: the original paths of the logged files."""

    returned: list[Path]
    """Files that were moved back."""
    there: list[Path]
    """Files that were already at the original path."""
    taken: list[Path]
    """Original paths that another file now has; the moved file stays where it is."""
    missing: list[Path] = field(default_factory=list)
    """Files that are at neither path."""


def plan_moves(dropped: Sequence[Picture], folder: Path) -> list[tuple[Path, str, str]]:
    """Plan the moves of dropped files: each file, its new path relative to the folder, its id. Moves nothing.

    Raises:
        InputError: The folder holds other files than those of earlier moves, or an image is not a file.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{folder}: exists and is not a folder; give a new folder for dropped files")
    log = folder / LOG
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if there - {f".{LOG}.tmp"} and not log.is_file():  # a killed call leaves the .tmp file
        raise InputError(f"{folder} is not empty, and has no {LOG} of earlier moves; give a new or empty folder")
    if log.is_file():
        list(_moves(log))
    known: dict[Path, Picture] = {}
    for picture in dropped:
        if picture.file is None:
            raise InputError(
                f"{picture.where or picture.id}: {picture.id!r} is not an individual file, so it cannot be moved; "
                "use --drop-list, or --manifest with --links for the images to keep"
            )
        known.setdefault(picture.file, picture)  # a file may have two ids
    names = relative_names(
        [picture.id for picture in known.values()], [file_suffix(file) for file in known], reserved=(LOG,)
    )
    return [
        (file, _free(folder, name, file), picture.id)
        for (file, picture), name in zip(known.items(), names, strict=True)
    ]


def move_aside(moves: Sequence[tuple[Path, str, str]], folder: Path) -> Path:
    """Move files by a plan of `plan_moves`, and log the moves.

    The log is on disk before the first move. No file is replaced. After an interruption, each file is at its old or
    its new path.

    Returns:
        Path of the log.

    Raises:
        InputError: A file cannot be moved; the files before it have moved.
    """
    log = folder / LOG
    before = list(_moves(log)) if log.is_file() else []
    rows = dict.fromkeys([*before, *((str(file), to, image_id) for file, to, image_id in moves)])
    write_csv(log, _HEADER, rows)
    with stage("moving files", len(moves), unit="files") as update:
        for number, (file, to, _) in enumerate(moves, start=1):
            move_file(file, folder / to)
            update(number)
    return log


def undo_moves(log: str | Path) -> Undone:
    """Move dropped files back to their original paths.

    Args:
        log: The `moved.csv` in their folder, or that folder. The folder itself may have moved since.

    Returns:
        The files that moved back and those that did not. The log stays; a second call does no harm.

    Raises:
        InputError: The log cannot be read, or a file cannot be moved; the message names it.

    Examples:
        >>> done = sdclr.apply_marks("marks.csv", "images", move_dropped="dropped")
        >>> len(sdclr.open_source("images"))
        59
        >>> len(sdclr.undo_moves("dropped/moved.csv").returned)
        1
    """
    log = Path(log)
    if log.is_dir():
        log /= LOG
    undone = Undone([], [], [], [])
    for origin, to, _ in reversed(list(_moves(log))):
        home, away = Path(origin), log.parent / to
        if not os.path.lexists(away):
            (undone.there if os.path.lexists(home) else undone.missing).append(home)
        elif os.path.lexists(home) and not _same(home, away):
            undone.taken.append(home)
        else:
            move_file(away, home)
            undone.returned.append(home)
    return undone


def move_file(file: Path, target: Path) -> None:
    """Move one file, also to another disk. Replaces no file.

    Raises:
        InputError: The file cannot be moved; it stays where it was.
        StorageError: The cause is a full disk, a missing permission or the like.
    """
    try:
        make_folder(target.parent)
        if _same(file, target):  # an earlier call stopped after linking the new name
            file.unlink()
            return
        try:
            put(file, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(file, target)
            file.unlink()
    except (OSError, StorageError) as error:
        told = error if isinstance(error, StorageError) else refused(target, error)
        kind = StorageError if isinstance(told, StorageError) else InputError
        why = told or f"{file}: cannot be moved to {target} ({getattr(error, 'strerror', error)})"
        raise kind(f"{why}; {file} is where it was, and so are all after it") from error


def _copy(file: Path, target: Path) -> None:
    """Copy a file to another disk atomically. A link is copied as a link."""
    if file.is_symlink():
        target.symlink_to(file.readlink())
        return
    aside = target.with_name(_ASIDE)
    with file.open("rb") as opened, streamed(target, size=file.stat().st_size, aside=aside, replace=False) as written:
        shutil.copyfileobj(opened, written)
        written.flush()
        shutil.copystat(file, aside)


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are the same file. Links are not followed."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except OSError:
        return False


def _free(folder: Path, name: str, file: Path) -> str:
    """The name, with a number appended if another file in the folder has it."""
    place, number = PurePosixPath(name), 1
    while os.path.lexists(folder / name) and not _same(folder / name, file):
        number += 1
        name = (place.parent / f"{place.stem}-{number}{place.suffix}").as_posix()
    return name


def _moves(log: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the checked rows of a log."""
    for number, cells in enumerate(read_csv(log, _HEADER, "give the log that --move-dropped wrote"), start=2):
        origin, to, image_id = cells
        place = PurePosixPath(to)
        strange = place.is_absolute() or ".." in place.parts or not to or "\0" in origin + to
        if strange or not os.path.isabs(origin):  # noqa: PTH117
            raise InputError(
                f"{log}, row {number}: would move {to!r} back to {origin!r}; give a log as --move-dropped writes it"
            )
        yield origin, to, image_id
