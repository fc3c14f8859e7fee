"""Read the CSV files that this package writes for itself."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from sdclr.errors import InputError


def complete_records(path: Path, header: Sequence[str], remedy: str) -> list[list[str]]:
    """The rows of a CSV file with a known header.

    Raises:
        InputError: If it cannot be read, or is another file.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read ({reason}); {remedy}") from error
    if not rows or rows[0] != list(header):
        found = ", ".join(rows[0])[:200] if rows else "nothing"
        raise InputError(f"{path} begins with {found!r}, not {', '.join(header)!r}; {remedy}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number}: has {len(row)} cells, not {len(header)}; {remedy}")
    return rows[1:]
