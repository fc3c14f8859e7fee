"""Every file that this package writes: whole or not at all, with one line for whatever keeps it from being written.

A file is written under another name, `.NAME.tmp`, synced and renamed. What a killed process leaves under such a name
is overwritten by the next one. `sdclr.files.refusals` turns what the file system refuses into a `StorageError`.
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
"""What file systems without links answer."""
_BLOCK: Final = 2**20


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Put a file in its place whole or not at all, on disk before this returns.

    Raises:
        InputError: The place is a folder or a device, or lies in a file.
        StorageError: The disk is full, or the like. What was there is intact.
    """
    with streamed(path, size=len(data)) as file:
        file.write(data)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object for people to read, whole or not at all. Errors are those of `write_atomically`."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 come as lone surrogates, and go back to the bytes they were.
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


@contextmanager
def streamed(
    path: Path, *, size: int | None = None, aside: Path | None = None, replace: bool = True
) -> Iterator[BinaryIO]:
    """A file to write piece by piece. It is put in its place when the context ends without an error.

    Args:
        path: The file; its folder is made if it is missing.
        size: Bytes that it will have, where they are known, for the message.
        aside: Its name until then, on the same disk; by default `.NAME.tmp` beside it.
        replace: Replace a file that is there. Without that it is an error.

    Raises:
        InputError: The place is a folder or a device, lies in a file, or holds a file that is not to be replaced.
        StorageError: The disk is full, or the like. What was there is intact.
    """
    aside = aside or path.with_name(f".{path.name}.tmp")
    with storing(path, size=size):
        if replace and path.exists() and not path.is_file():  # a rename would put the file in place of a device
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
        _sync(path.parent)  # the rename, too, must survive a power cut


def _opened_alone(path: Path) -> BinaryIO:
    """Open a new file for writing, once no other process writes it under this name."""
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
    """Give a file another name on the same disk, unless that name is taken.

    Raises:
        FileExistsError: If it is.
        OSError: The file system refuses it.
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
    """Give a folder another name beside the old one.

    Raises:
        StorageError: The disk is read-only, or the like.
    """
    with storing(folder):
        folder.rename(folder.with_name(name))
        _sync(folder.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, put in its place when the context ends without an error.

    Args:
        folder: It is new or empty, but for what a killed process has left (`left_aside`).

    Raises:
        InputError: The place lies in a file.
        StorageError: The disk is full, or the like. Nothing is left of it then.
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
        except StorageError as error:  # people know the folder by its own name
            raise StorageError(str(error).replace(str(aside), str(folder))) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _sync(folder)
        _sync(folder.absolute().parent)


def left_aside(folder: Path) -> Path:
    """Where `whole_folder` writes: beside a new folder, in one that is there, which may be a disk of its own."""
    return folder / ".sdclr.tmp" if folder.is_dir() else folder.with_name(f".{folder.name}.tmp")


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file, all or nothing.

    Raises:
        InputError: The place lies in a file.
        StorageError: The disk is full, or the like. The file is as it was.
    """
    with storing(path, size=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(data)
                while rest:  # a disk that fills up takes a part first
                    rest = rest[file.write(rest) :]
            except BaseException:
                with suppress(OSError):
                    file.truncate(before)
                raise


def append_json(path: Path, values: dict[str, Any]) -> None:
    """Add a line of JSON to a file. Errors are those of `append`."""
    append(path, f"{json.dumps(values)}\n".encode())


def new_array(path: Path, shape: tuple[int, ...], dtype: "DTypeLike") -> "np.memmap[Any, Any]":
    """A new NumPy file of zeros, mapped into memory for reading and writing.

    Its space on disk is reserved first: without that, a full disk ends the process by SIGBUS when a page is written.

    Raises:
        StorageError: There is too little space, or the like. No file is left.
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
    """A NumPy file that is there, mapped for reading and writing; holes in it get their space on disk.

    Raises:
        StorageError: There is too little space for them, or no permission.
        ValueError: It is no whole NumPy file.
    """
    import numpy as np

    with storing(path):
        with path.open("r+b") as file:
            _reserve(file, os.fstat(file.fileno()).st_size)
        return np.lib.format.open_memmap(path, mode="r+")


@contextmanager
def temporary_array(folder: Path | None, name: str, rows: int, dtype: "DTypeLike") -> Iterator["NDArray[Any]"]:
    """A table in a temporary file, mapped into memory with its space reserved, until the context ends.

    Args:
        folder: Where the file lies; by default where temporary files do.
        name: Begins the file's name. Files of that name whose process was killed are removed.
        rows: Its length.
        dtype: Of a row.

    Raises:
        StorageError: There is too little space, or the like. The file is removed.
    """
    import numpy as np

    size = rows * np.dtype(dtype).itemsize
    with _temporary(folder, size) as place:
        place.mkdir(parents=True, exist_ok=True)
        if folder is not None:
            _remove_abandoned(folder, f"{name}-*.tmp")
        with tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".tmp", dir=place) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)  # while it is held, nobody takes the file for abandoned
            _reserve(file, size)
            yield np.memmap(file.name, dtype=dtype, mode="r+", shape=(rows,)) if rows else np.zeros(0, dtype=dtype)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files, removed with all that is in it when the context ends.

    Raises:
        StorageError: It cannot be made.
    """
    with _temporary() as place, tempfile.TemporaryDirectory(prefix="sdclr-", dir=place) as name:
        yield Path(name)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        InputError: The place lies in a file.
        StorageError: No permission, or the like.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there.

    Raises:
        StorageError: No permission, or the like.
    """
    with storing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _reserve(file: IO[bytes], size: int) -> None:
    """Give a file so many bytes of space on the disk, without a change of what it holds."""
    file.flush()
    if size and hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems have none
                raise
    missing = size - file.seek(0, os.SEEK_END)
    while missing > 0:
        missing -= file.write(bytes(min(missing, _BLOCK)))
    file.flush()


def _remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove temporary files that no process holds a lock on any more."""
    for path in folder.glob(pattern):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def _temporary(folder: Path | None = None, size: int | None = None) -> Iterator[Path]:
    """The folder of temporary files, if no other one is given. `storing` with the remedy that fits."""
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
    """Have the names in a folder on disk. Some file systems cannot; the file is in its place anyway."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
