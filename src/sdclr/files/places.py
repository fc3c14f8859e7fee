"""Folders: where caches belong, who works where, what the file system lets us see."""

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


_WORKERS_END: Final = 15.0
"""Seconds after which workers of torch have noticed that the process which started them is gone: it takes them five."""


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
def claimed(folder: Path, name: str = ".lock", *, reads: bool = False) -> Iterator[bool]:
    """Whether nobody else works in a folder; until it is left, nobody else does.

    The lock is the kernel's, which lets go of it when its holder ends, however it ends: none is ever stale. The file
    holds the number of the process that has it. Workers that a killed process has left hold its lock, too, until they
    notice its end after some seconds: this is waited for.

    Args:
        folder: Is made if it is not there.
        name: Of the file, by the kind of work.
        reads: The work may do without writing: a read-only disk, on which nobody can write, counts as free.

    Raises:
        StorageError: The folder or the file cannot be made.
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
    """Take the lock of a file; waits while those that hold it belong to a process that has ended."""
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
    """Whether the process is there whose number a lock file holds; True if that is not known."""
    try:
        os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True
