"""Allows only one process at a time in a folder; the error names the other one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdclr.errors import InputError
from sdclr.files.places import claimed


@contextmanager
def only_process(folder: Path, name: str, doing: str, remedy: str, *, reads: bool = False) -> Iterator[None]:
    """Prevent other processes from the same work in a folder during the context.

    Args:
        folder: The folder; created if missing.
        name: Name of the lock file, one for each kind of work.
        doing: Work of the other process in the folder, for the message: "mines into".
        remedy: Alternative to waiting, for the message: "name another folder with --out".
        reads: As for `claimed`.

    Raises:
        InputError: Another process works in the folder. The message has its process number.
    """
    with claimed(folder, name, reads=reads) as free:
        if not free:
            raise taken(folder, name, doing, remedy)
        yield


def taken(folder: Path, name: str, doing: str, remedy: str) -> InputError:
    """The error for a folder in which another process works. Arguments are those of `only_process`."""
    try:
        number = (folder / name).read_text().strip()
    except OSError:
        number = ""
    who = f"another process (PID {number})" if number.isdecimal() else "another process"
    return InputError(f"{who} {doing} {folder}: wait for it, or {remedy}")
