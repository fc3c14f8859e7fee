"""Folders: the user's cache, locks for exclusive work, and errors when reading."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sdclr.errors import InputError
from sdclr.files.refusals import is_read_only, storing
from sdclr.files.writing import make_folder


def user_cache_folder() -> Path:
    """The user's cache folder: `$XDG_CACHE_HOME/sdclr`, by default `~/.cache/sdclr`.

    It follows the XDG Base Directory Specification, and need not exist yet.

    Raises:
        OSError: The user has no home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "sdclr"
    except RuntimeError as error:
        raise OSError("the user has no home folder") from error


_WORKERS_END: Final = 15.0
"""Seconds after which torch's workers have noticed the end of the process that started them: they take five."""


@contextmanager
def looking_at(what: object) -> Iterator[None]:
    """Convert file system errors inside, such as a missing permission, to an `InputError`.

    Args:
        what: Name of the path, for the message.

    Raises:
        InputError: The file system reported an error.
    """
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{what}: no permission to look at it; allow it, or name another") from error
    except OSError as error:
        raise InputError(f"{what}: cannot be looked at ({error.strerror or error}); check the path") from error


@contextmanager
def claimed(folder: Path, name: str = ".lock", *, reads: bool = False) -> Iterator[bool]:
    """Lock a folder during the context. Yields False if another process has the lock.

    The kernel releases the lock when its holder ends in any way, so it is never stale. The file holds the process
    number of the holder. Workers of a killed process also hold its lock, until they notice its end after some seconds:
    this function waits for them.

    Args:
        folder: The folder; created if missing.
        name: Name of the lock file, one for each kind of work.
        reads: The work can do without writing: a read-only disk, on which nobody can write, counts as free.

    Raises:
        StorageError: The folder or the file cannot be created.
    """
    make_folder(folder)
    if reads and is_read_only(folder):
        yield True
        return
    with storing(folder / name):
        file = (folder / name).open("a")
    with file:
        if not _locked(file, folder / name):
            yield False
            return
        with storing(folder / name):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield True


def _locked(file: IO[str], path: Path) -> bool:
    """Take the lock of a file; waits while its holders are workers of a process that has ended."""
    until = time.monotonic() + _WORKERS_END
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until or _is_alive(path):
                return False
            time.sleep(0.1)
        else:
            return True


def _is_alive(path: Path) -> bool:
    """Whether the process with the number in a lock file exists; True if that is unknown."""
    try:
        os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def absent_images(path: object) -> InputError:
    """The error for a path of images that does not exist."""
    return InputError(
        f"{path} does not exist; give an existing path, or digits, cifar10:FOLDER, hf:PATH, wds:PATH or coco:FILE"
    )
