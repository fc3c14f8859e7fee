"""Reads the files of this package, with one-line errors.

A missing file, or one without read permission, raises an `InputError`. Any other fault raises a `DamagedFileError`,
which names the file, the fault and the remedy. Arrays, Parquet tables and weights have separate modules.
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
"""Remedy for a damaged file that nothing creates again."""

Keys: TypeAlias = Mapping[str, type | tuple[type, ...]]
"""Keys that a JSON object must have, and the types of their values."""

_CHECKSUM: Final = "checksum"
_LONGEST: Final = 300
"""Maximum number of characters of a parser's message."""
_NO_FILE: Final = "no regular file but a pipe, a device or the like"


def damaged(path: Path, what: object, remedy: str) -> DamagedFileError:
    """The error for a damaged file.

    Args:
        path: The file.
        what: The fault, as a text or an exception.
        remedy: How to create the file again.
    """
    said = f"{type(what).__name__}: {what}" if isinstance(what, BaseException) else str(what)
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in said).split())
    return DamagedFileError(f"{path} cannot be read ({words[:_LONGEST]}): {remedy}")


def check_file(path: Path, remedy: str = COPY) -> int:
    """Check that a file exists and is a regular file, since reading a pipe may never end.

    Returns:
        Its size in bytes.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The path is a folder, a pipe or a device.
    """
    with _permitted(path, remedy):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "a folder, not a file" if stat.S_ISDIR(status.st_mode) else _NO_FILE, remedy)
    return status.st_size


@contextmanager
def parsing(path: Path, remedy: str = COPY) -> Iterator[None]:
    """Read or check a file inside: any error of its parser becomes a one-line error.

    Parsers of damaged bytes raise errors of any type. Keep the body short, so that no bug of the program is reported as
    a damaged file; `__cause__` holds the original error.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file cannot be read for another reason.
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
    """The bytes of a file of this package.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file cannot be read for another reason.
    """
    with parsing(path, remedy):
        return path.read_bytes()


def read_text(path: Path, remedy: str = COPY) -> str:
    """The text of a file of this package, in UTF-8; file names that are not UTF-8 have lone surrogates.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: The file cannot be read for another reason.
    """
    return read_bytes(path, remedy).decode("utf-8", "surrogateescape")


def read_regular(path: Path, *, limit: int | None = None, remedy: str = "name another file") -> bytes:
    """The bytes of a regular file of the user. Other files raise an error: reading a pipe or a device may never end.

    Args:
        path: The file.
        limit: Size in bytes above which nothing is read.
        remedy: Remedy for a file that is too large, for the message.

    Raises:
        InputError: The file does not exist, is not a regular file, is too large, or cannot be read.
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
    """A JSON object from a file of this package.

    Args:
        path: The file.
        remedy: How to create the file again.
        keys: Required keys and types.

    Returns:
        The object, without its checksum if it has one (see `with_checksum`).

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: It is not a JSON object, lacks a key, has a value of the wrong type, or a wrong checksum.
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
    """Add a checksum to a JSON object, which `read_json` checks. For files that nobody edits by hand."""
    return {**values, _CHECKSUM: _checksum(values)}


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_keys(path: Path, values: Mapping[str, Any], keys: Keys, remedy: str = COPY) -> None:
    """Check keys and types of a JSON object.

    Raises:
        DamagedFileError: A key is missing, or its value has the wrong type.
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
    """The JSON objects of a log, one per line. A last line that was only partly written is left out.

    Args:
        path: The file.
        keys: Required keys and types of each line.
        skip: Leave out damaged lines and report them, instead of raising an error.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: A line is not such a JSON object. The message has its number.
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
                break  # no line break follows: it was only partly written
            wrong = str(error)
        if wrong is None:
            found.append(values)
        elif skip:
            tell(f"{path}: line {number} is damaged and left out")
        else:
            raise damaged(path, f"line {number}: {wrong}", f"remove line {number}, or put back a whole copy")
    return found
