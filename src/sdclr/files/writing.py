"""Writes all files of this package, completely or not at all, with one-line errors.

A file is written under a temporary name, `.NAME.tmp`, synced and renamed. The next process overwrites the temporary
files of a killed process. `sdclr.files.refusals` converts file system errors to a `StorageError`.
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final

from sdclr.errors import InputError, StorageError
from sdclr.files.refusals import storing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""Error numbers of file systems without links."""
_BLOCK: Final = 2**20


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file completely or not at all. It is on disk before this returns.

    Raises:
        InputError: The path is a folder or a device, or a parent of it is a file.
        StorageError: Writing fails, for example on a full disk. An existing file is unchanged.
    """
    with streamed(path, size=len(data)) as file:
        file.write(data)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a readable JSON object, completely or not at all. Errors are those of `write_atomically`."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 have lone surrogates, which become the original bytes.
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


@contextmanager
def streamed(
    path: Path, *, size: int | None = None, aside: Path | None = None, replace: bool = True
) -> Iterator[BinaryIO]:
    """A file to write in parts. It is moved to its path when the context ends without an error.

    Args:
        path: The file; its folder is created if missing.
        size: Its final size in bytes, if known, for the message.
        aside: Its temporary name, on the same disk; by default `.NAME.tmp` beside it.
        replace: Replace an existing file. Otherwise an existing file is an error.

    Raises:
        InputError: The path is a folder or a device, a parent of it is a file, or a file exists that is not replaced.
        StorageError: Writing fails, for example on a full disk. An existing file is unchanged.
    """
    aside = aside or path.with_name(f".{path.name}.tmp")
    with storing(path, size=size):
        if replace and path.exists() and not path.is_file():  # a rename would replace a device
            raise InputError(f"{path} is a folder or no regular file: name a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened_alone(aside) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if replace:
                    aside.replace(path)
                else:
                    put(aside, path)
            except BaseException:
                with suppress(OSError):
                    aside.unlink(missing_ok=True)
                raise
        _sync(path.parent)  # the rename, too, must survive a power failure


def _opened_alone(path: Path) -> BinaryIO:
    """Open a new file for writing, once no other process writes a file of this name."""
    while True:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        file: BinaryIO = os.fdopen(number, "wb")
        with suppress(OSError):  # some file systems have no locks; the other process may have renamed the file
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                return file
        file.close()


def put(file: Path, target: Path) -> None:
    """Rename a file on the same disk, unless the new name exists.

    Raises:
        FileExistsError: The new name exists.
        OSError: The file system reports another error.
    """
    try:
        os.link(file, target, follow_symlinks=False)  # a rename would replace a file of that name
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        file.rename(target)
        return
    file.unlink()


def rename_folder(folder: Path, name: str) -> None:
    """Rename a folder.

    Raises:
        StorageError: Renaming fails, for example on a read-only disk.
    """
    with storing(folder):
        folder.rename(folder.with_name(name))
        _sync(folder.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, moved to its path when the context ends without an error.

    Args:
        folder: It is new or empty, except for files of a killed process (`left_aside`).

    Raises:
        InputError: A parent of the path is a file.
        StorageError: Writing fails, for example on a full disk. No files are left then.
    """
    aside = left_aside(folder)
    with storing(folder):
        try:
            if aside.exists():
                shutil.rmtree(aside)
            aside.mkdir(parents=True)
            yield aside
            if aside.parent == folder:
                for file in sorted(aside.iterdir()):
                    file.replace(folder / file.name)
                aside.rmdir()
            else:
                aside.replace(folder)
        except StorageError as error:  # the message must have the final name
            raise StorageError(str(error).replace(str(aside), str(folder))) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _sync(folder)
        _sync(folder.absolute().parent)


def left_aside(folder: Path) -> Path:
    """The temporary folder of `whole_folder`: beside a new folder, or in an existing one, which may be a mount."""
    return folder / ".sdclr.tmp" if folder.is_dir() else folder.with_name(f".{folder.name}.tmp")


def append(path: Path, data: bytes) -> None:
    """Append to a file, all or nothing.

    Raises:
        InputError: A parent of the path is a file.
        StorageError: Writing fails, for example on a full disk. The file is unchanged.
    """
    with storing(path, size=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(data)
                while rest:  # a disk that is almost full accepts a part first
                    rest = rest[file.write(rest) :]
            except BaseException:
                with suppress(OSError):
                    file.truncate(before)
                raise


def append_json(path: Path, values: dict[str, Any]) -> None:
    """Append a line of JSON to a file. Errors are those of `append`."""
    append(path, f"{json.dumps(values)}\n".encode())


def new_array(path: Path, shape: tuple[int, ...], dtype: "DTypeLike") -> "np.memmap[Any, Any]":
    """Create a NumPy file of zeros, memory-mapped for reading and writing.

    Its space on disk is reserved first: otherwise a full disk ends the process with SIGBUS when a page is written.

    Raises:
        StorageError: Writing fails, for example for lack of space. No file is left.
    """
    import numpy as np

    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    with streamed(path, size=size) as file:
        described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, described)
        _reserve(file, file.tell() + size)
    return mapped_array(path)


def mapped_array(path: Path) -> "np.memmap[Any, Any]":
    """Map an existing NumPy file for reading and writing; disk space is reserved for holes in it.

    Raises:
        StorageError: There is too little space for them, or no permission.
        ValueError: The file is not a complete NumPy file.
    """
    import numpy as np

    with storing(path):
        with path.open("r+b") as file:
            _reserve(file, os.fstat(file.fileno()).st_size)
        return np.lib.format.open_memmap(path, mode="r+")


@contextmanager
def temporary_array(folder: Path | None, name: str, rows: int, dtype: "DTypeLike") -> Iterator["NDArray[Any]"]:
    """A memory-mapped table in a temporary file, with its space reserved, until the context ends.

    Args:
        folder: The folder of the file; by default the folder for temporary files.
        name: Beginning of the file's name. Files with this beginning from killed processes are removed.
        rows: Number of rows.
        dtype: Type of a row.

    Raises:
        StorageError: Writing fails, for example for lack of space. The file is removed.
    """
    import numpy as np

    size = rows * np.dtype(dtype).itemsize
    with _temporary(folder, size) as place:
        place.mkdir(parents=True, exist_ok=True)
        if folder is not None:
            _remove_abandoned(folder, f"{name}-*.tmp")
        with tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".tmp", dir=place) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)  # the lock shows that the file is in use
            _reserve(file, size)
            yield np.memmap(file.name, dtype=dtype, mode="r+", shape=(rows,)) if rows else np.zeros(0, dtype=dtype)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files, removed with its contents when the context ends.

    Raises:
        StorageError: It cannot be created.
    """
    with _temporary() as place, tempfile.TemporaryDirectory(prefix="sdclr-", dir=place) as name:
        yield Path(name)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, unless they exist.

    Raises:
        InputError: A parent of the path is a file.
        StorageError: It cannot be created, for example for lack of permission.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if it exists.

    Raises:
        StorageError: It cannot be removed, for example for lack of permission.
    """
    with storing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _reserve(file: IO[bytes], size: int) -> None:
    """Reserve `size` bytes on the disk for a file, without changing its contents."""
    file.flush()
    if size and hasattr(os, "posix_fallocate"):  # macOS lacks it
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems lack it
                raise
    missing = size - file.seek(0, os.SEEK_END)
    while missing > 0:
        missing -= file.write(bytes(min(missing, _BLOCK)))
    file.flush()


def _remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove temporary files that no process has locked any more."""
    for path in folder.glob(pattern):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def _temporary(folder: Path | None = None, size: int | None = None) -> Iterator[Path]:
    """The given folder, or that for temporary files, inside `storing` with a matching remedy."""
    try:
        place = Path(tempfile.gettempdir() if folder is None else folder)
    except FileNotFoundError as error:
        raise StorageError("no folder for temporary files can be written: set TMPDIR to one with free space") from error
    try:
        with storing(place / "temporary file", size=size):
            yield place
    except StorageError as error:
        if folder is not None:
            raise
        text = str(error).replace("choose another folder", "set TMPDIR to another folder")
        raise StorageError(text) from error


def _sync(folder: Path) -> None:
    """Sync the names in a folder to disk. Some file systems cannot; the file is in its place anyway."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
