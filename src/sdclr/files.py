"""Files that are written whole or not at all."""

import csv
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdclr.errors import InputError


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Put a file in its place whole or not at all, on disk before this returns.

    Raises:
        InputError: The place is a folder or a device, or lies in a file.
        OSError: The disk is full, or the like.
    """
    if path.exists() and not path.is_file():  # a rename would put the file in place of a device
        raise InputError(f"{path} is a folder or no regular file: name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be written: {error.filename} is a file; name another place") from error
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too, must survive a power cut
    finally:
        os.close(folder)


def read_regular(path: Path, *, limit: int | None = None, remedy: str = "name another file") -> bytes:
    """The bytes of a regular file. Folders, pipes and devices are refused, since reading them may never end.

    Args:
        path: The file.
        limit: Size in bytes above which nothing is read.
        remedy: What to do about a file that is too large, for the message.

    Raises:
        InputError: If there is no such file, it is too large, or it cannot be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is a folder: name a file")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file but a pipe, a device or the like: save its contents to a file")
        if limit is not None and status.st_size > limit:
            raise InputError(f"{path} has {status.st_size:,} bytes, more than {limit:,}: {remedy}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be read: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: no permission; allow reading it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def user_cache_folder() -> Path:
    """The user's folder for what can be made again: `$XDG_CACHE_HOME/sdclr`, by default `~/.cache/sdclr`.

    As the XDG Base Directory Specification says. It need not be there yet.

    Raises:
        OSError: The user has no home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "sdclr"
    except RuntimeError as error:
        raise OSError("the user has no home folder") from error


@contextmanager
def looking_at(what: object) -> Iterator[None]:
    """Turn what the file system refuses inside, such as a folder without permission, into an `InputError`.

    Args:
        what: What is looked at, for the message.

    Raises:
        InputError: The file system refused.
    """
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{what}: no permission to look at it; allow it, or name another") from error
    except OSError as error:
        raise InputError(f"{what}: cannot be looked at ({error.strerror or error}); check the path") from error


@contextmanager
def claimed(folder: Path, name: str = ".lock") -> Iterator[bool]:
    """Whether nobody else works in a folder; until it is left, nobody else does.

    The lock is the kernel's, which lets go of it when its holder ends, however it ends: none is ever stale. The file
    holds the number of the process that has it, for people.

    Args:
        folder: Is made if it is not there.
        name: Of the file, by the kind of work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield True


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: If it cannot be read as one.
    """
    data = read_regular(path)
    try:
        values = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object for people to read, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 come as lone surrogates, and go back to the bytes they were.
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, quote_all: bool = False) -> None:
    """Write a CSV file, whole or not at all. Cells with commas, quotes or line breaks are quoted; None is empty.

    Args:
        path: The file.
        header: Names of the columns.
        rows: The cells of each row.
        quote_all: Quote every cell, so that no reader trims blanks.
    """
    write_atomically(path, csv_bytes([header, *rows], quote_all=quote_all))


def csv_bytes(rows: Iterable[Sequence[object]], *, quote_all: bool = False) -> bytes:
    """Rows as CSV in UTF-8; names that are not UTF-8 go back to the bytes they were.

    Raises:
        InputError: If a text has no bytes, because it holds half a character.
    """
    lines = _Lines()
    # With this line end the writer quotes cells that hold a carriage return; the files themselves end lines with \n.
    writer = csv.writer(lines, lineterminator="\r\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerows(rows)
    text = "".join(line.removesuffix("\r\n") + "\n" for line in lines)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.end + 20]
        raise InputError(f"{near!r} holds half a character, which no file can: change this text") from error


class _Lines(list[str]):
    """Collects what a CSV writer writes, one text for each row."""

    def write(self, line: str) -> None:
        self.append(line)
