"""One-line errors for files that cannot be written: a full disk, a quota, a limit, a missing permission."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sdclr.errors import InputError, StorageError

_ELSEWHERE: Final = "or choose another folder"
_NO_PERMISSION: Final = f"no permission to write there: allow it, {_ELSEWHERE}"
_REFUSED: Final = {
    errno.EROFS: f"the file system is read-only: make it writable, {_ELSEWHERE}",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EIO: f"the disk reports an input/output error: check the disk, {_ELSEWHERE}",
    errno.EMFILE: "this process has too many open files: raise the limit with `ulimit -n`, or use fewer --workers",
    errno.ENFILE: "the system has too many open files: close other programs, or raise fs.file-max",
    errno.EBUSY: "the system uses it: choose another folder",
    errno.ESTALE: f"the network file system has lost it: mount it again, {_ELSEWHERE}",
    errno.ENOENT: f"its folder is gone: put it back, {_ELSEWHERE}",
}
"""Meanings of further errors of the file system, with remedies."""
_WRONG_PATH: Final = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})


def require_space(folder: Path, size: int) -> None:
    """Check that `size` bytes can be written to a folder, before the work that produces them.

    Raises:
        StorageError: The disk has less free space, or is read-only.
    """
    if is_read_only(folder):
        raise StorageError(f"{folder} cannot be written: {_REFUSED[errno.EROFS]}")
    disk = _disk(folder)
    if disk is not None and disk.f_blocks and disk.f_bavail * disk.f_frsize < size:
        raise _full(folder, size)


@contextmanager
def storing(path: Path | str, *, size: int | None = None) -> Iterator[None]:
    """Convert file system errors inside to one-line errors.

    Args:
        path: The file that is written.
        size: Its final size in bytes, if known.

    Raises:
        InputError: The path is invalid: a parent of it is a file, or its name is too long.
        StorageError: Writing fails: for example a full disk, a limit, a quota, or a missing permission.
    """
    try:
        yield
    except OSError as error:
        if not _is_about(error, path):
            raise
        told = refused(path, error, size)
        if told is None:
            raise
        raise told from error


def refused(path: Path | str, error: OSError, size: int | None = None) -> InputError | None:
    """The one-line error for an error of the file system; None for other errors.

    Args:
        path: The file that is written.
        error: The error of the file system.
        size: The file's final size in bytes, if known.
    """
    code, begin = error.errno, f"{path} cannot be written:"
    if code == errno.ENAMETOOLONG:
        return InputError(f"{begin} the name is too long for this disk; choose a shorter one")
    if code in _WRONG_PATH:
        return InputError(f"{begin} {error.filename2 or error.filename or path} is a file; name another place")
    if code == errno.ENOSPC:
        return _full(path, size)
    if code == errno.EDQUOT:
        needs = "" if size is None else f", it needs {_bytes(size)}"
        return StorageError(f"{begin} your disk quota is used up{needs}: remove files, {_ELSEWHERE}")
    if code == errno.EFBIG:
        needs = "" if size is None else f"it needs {_bytes(size)}, "
        return StorageError(f"{begin} {needs}{_largest()}, {_ELSEWHERE}")
    return StorageError(f"{begin} {_REFUSED[code]}") if code in _REFUSED else None


def _full(path: Path | str, size: int | None) -> StorageError:
    disk = _disk(path)
    if disk is not None and disk.f_files and not disk.f_favail:
        return StorageError(f"{path} cannot be written: the disk can hold no more files: remove some, {_ELSEWHERE}")
    needs = "" if size is None else f", it needs {_bytes(size)}"
    free = "" if disk is None else f", {_bytes(disk.f_bavail * disk.f_frsize)} are free"
    return StorageError(f"{path} cannot be written: the disk is full{needs}{free}: free some space, {_ELSEWHERE}")


def _largest() -> str:
    """The limit on the size of a file, and how to raise it."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return "more than the file system allows for a file: choose another disk"
    return f"and a file may have {_bytes(limit)} at most: raise this limit with `ulimit -f`"


def _disk(path: Path | str) -> os.statvfs_result | None:
    """Statistics of the disk of a path, which need not exist yet."""
    place = Path(path).absolute()
    for folder in (place, *place.parents):
        with suppress(OSError):
            return os.statvfs(folder)
    return None


def is_read_only(path: Path | str) -> bool:
    """Whether a path, which need not exist yet, is on a read-only disk."""
    disk = _disk(path)
    return disk is not None and bool(disk.f_flag & os.ST_RDONLY)


def _bytes(size: int) -> str:
    """A size in readable units."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size} bytes"


def _is_about(error: OSError, path: Path | str) -> bool:
    """Whether an error concerns the path, or a path above, beside or below it, rather than an input."""
    if not isinstance(error.filename, str | bytes):
        return True
    named, place = Path(os.fsdecode(error.filename)).absolute(), Path(path).absolute()
    return named == place or named in place.parents or place.parent in named.parents
