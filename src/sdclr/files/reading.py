"""Our own files are read here, with an error of one line for whatever is wrong with them.

A file that is missing, or that the user may not read, is an `InputError`. Any other fault is a `DamagedFileError`,
which names the file, what is wrong and the remedy. Arrays, Parquet tables and weights have modules of their own.
"""

import errno
import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from sdclr.errors import DamagedFileError, InputError, SettingError
from sdclr.progress import tell

COPY: Final = "put back a whole copy of it"
"""What to do about a damaged file if nothing makes it again."""

Keys: TypeAlias = Mapping[str, type | tuple[type, ...]]
"""Keys that a JSON object must have, and the types of their values."""

_CHECKSUM: Final = "checksum"
_LONGEST: Final = 300
"""Characters of what a parser says."""
_NO_FILE: Final = "no regular file but a pipe, a device or the like"


def damaged(path: Path, what: object, remedy: str) -> DamagedFileError:
    """The error of a damaged file.

    Args:
        path: The file.
        what: What is wrong, in words, or the exception that says so.
        remedy: How to make the file again.
    """
    said = f"{type(what).__name__}: {what}" if isinstance(what, BaseException) else str(what)
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in said).split())
    return DamagedFileError(f"{path} cannot be read ({words[:_LONGEST]}): {remedy}")


def check_file(path: Path, remedy: str = COPY) -> int:
    """Check that a file of ours is there and is a regular file, since reading a pipe may never end.

    Returns:
        Its size in bytes.

    Raises:
        InputError: It is missing, or there is no permission.
        DamagedFileError: A folder, a pipe or a device lies in its place.
    """
    with _permitted(path, remedy):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "a folder, not a file" if stat.S_ISDIR(status.st_mode) else _NO_FILE, remedy)
    return status.st_size


@contextmanager
def parsing(path: Path, remedy: str = COPY) -> Iterator[None]:
    """Read or check a file of ours inside: whatever its parser raises becomes one line.

    Parsers of damaged bytes raise errors of any type. Keep the body short, so that no fault of the program is taken for
    a damaged file; `__cause__` holds the first error.

    Raises:
        InputError: It is missing, or there is no permission.
        DamagedFileError: It cannot be read for any other reason.
    """
    check_file(path, remedy)
    with _permitted(path, remedy):
        try:
            yield
        except SettingError as error:
            raise damaged(path, str(error), remedy) from error
        except (InputError, MemoryError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            raise damaged(path, error, remedy) from error


@contextmanager
def _permitted(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} is missing: {remedy}") from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: no permission; allow reading it") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise damaged(path, error, remedy) from error
        raise InputError(f"{path} cannot be read: {error}") from error


def read_bytes(path: Path, remedy: str = COPY) -> bytes:
    """The bytes of a file of ours.

    Raises:
        InputError: It is missing, or there is no permission.
        DamagedFileError: It cannot be read for any other reason.
    """
    with parsing(path, remedy):
        return path.read_bytes()


def read_text(path: Path, remedy: str = COPY) -> str:
    """The text of a file of ours, in UTF-8; names of files that are not UTF-8 come as lone surrogates.

    Raises:
        InputError: It is missing, or there is no permission.
        DamagedFileError: It cannot be read for any other reason.
    """
    return read_bytes(path, remedy).decode("utf-8", "surrogateescape")


def read_regular(path: Path, *, limit: int | None = None, remedy: str = "name another file") -> bytes:
    """The bytes of a regular file of the user's. Folders, pipes and devices are refused: reading them may never end.

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
            raise InputError(f"{path} is {_NO_FILE}: save its contents to a file")
        if limit is not None and status.st_size > limit:
            raise InputError(f"{path} has {status.st_size:,} bytes, more than {limit:,}: {remedy}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be read: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: no permission; allow reading it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_json(path: Path, remedy: str = COPY, *, keys: Keys | None = None) -> dict[str, Any]:
    """A JSON object from a file of ours.

    Args:
        path: The file.
        remedy: How to make it again.
        keys: What it must hold.

    Returns:
        The object, without its checksum if it has one (see `with_checksum`).

    Raises:
        InputError: It is missing, or there is no permission.
        DamagedFileError: It is no JSON object, lacks a key, has a value of another type, or another checksum.
    """
    text = read_text(path, remedy)
    with parsing(path, remedy):
        values = json.loads(text)
    if not isinstance(values, dict):
        raise damaged(path, f"it must hold a JSON object, not a {type(values).__name__}", remedy)
    told = values.pop(_CHECKSUM, None)
    if told is not None and told != _checksum(values):
        raise damaged(path, "its contents were changed: they have another checksum", remedy)
    check_keys(path, values, keys or {}, remedy)
    return values


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of itself, which `read_json` compares. For files that nobody edits by hand."""
    return {**values, _CHECKSUM: _checksum(values)}


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_keys(path: Path, values: Mapping[str, Any], keys: Keys, remedy: str = COPY) -> None:
    """Check what a JSON object of ours holds.

    Raises:
        DamagedFileError: A key is missing, or its value has another type.
    """
    wrong = _wrong_keys(values, keys)
    if wrong is not None:
        raise damaged(path, wrong, remedy)


def _wrong_keys(values: Mapping[str, Any], keys: Keys) -> str | None:
    for key, kind in keys.items():
        if key not in values:
            return f"it has no {key!r}"
        value, kinds = values[key], kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return f"{key!r} is {value!r:.40}"
    return None


def read_json_lines(path: Path, *, keys: Keys | None = None, skip: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a log, one a line. A last line that was cut off while it was written is left out.

    Args:
        path: The file.
        keys: What each line must hold.
        skip: Leave out damaged lines and tell of them, instead of raising an error.

    Raises:
        InputError: It is missing, or there is no permission.
        DamagedFileError: A line is no JSON object of that kind. The message has its number.
    """
    lines = read_text(path).split("\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        values: Any = None
        try:
            values = json.loads(line)
            wrong = _wrong_keys(values, keys or {}) if isinstance(values, dict) else f"a {type(values).__name__}"
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break  # no line break follows: it was being written
            wrong = str(error)
        if wrong is None:
            found.append(values)
        elif skip:
            tell(f"{path}: line {number} is damaged and left out")
        else:
            raise damaged(path, f"line {number}: {wrong}", f"remove line {number}, or put back a whole copy")
    return found
