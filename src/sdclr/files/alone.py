"""One process at a time in a folder, with a line that names the other one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdclr.errors import InputError
from sdclr.files.places import claimed


@contextmanager
def only_process(folder: Path, name: str, doing: str, remedy: str, *, reads: bool = False) -> Iterator[None]:
    """Keep other processes from the same work in a folder while the context lasts.

    Args:
        folder: Is made if it is not there.
        name: Of the file that is locked, by the kind of work.
        doing: What the other process does with the folder, for the message: "mines into".
        remedy: What to do instead of waiting: "name another folder with --out".
        reads: As for `claimed`.

    Raises:
        InputError: Another process is at it. The line names its number.
    """
    with claimed(folder, name, reads=reads) as free:
        if not free:
            raise taken(folder, name, doing, remedy)
        yield


def taken(folder: Path, name: str, doing: str, remedy: str) -> InputError:
    """The error of a folder in which another process works. Arguments are those of `only_process`."""
    try:
        number = (folder / name).read_text().strip()
    except OSError:
        number = ""
    who = f"another process (number {number})" if number.isdecimal() else "another process"
    return InputError(f"{who} {doing} {folder}: wait for it, or {remedy}")
