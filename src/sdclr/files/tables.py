"""CSV files. A text that a spreadsheet would treat as a formula gets an apostrophe, which reading removes again."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sdclr.errors import InputError
from sdclr.files.reading import COPY, damaged, parsing, read_text
from sdclr.files.writing import write_atomically

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_GUARDED: Final = re.compile(r"'+[=+\-@\t\r]")


def guarded(cell: object) -> object:
    """Put an apostrophe before a text that looks like a formula, so that no spreadsheet evaluates it.

    Names of files and classes may be untrusted, and a spreadsheet evaluates a cell that begins with `=`, `+`, `-` or
    `@` (OWASP, "CSV injection"). Numbers stay unchanged. `unguarded` is the inverse.

    Example:
        >>> guarded("=1+1.png"), guarded("-0.5"), guarded("cat.png")
        ("'=1+1.png", '-0.5', 'cat.png')
    """
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def unguarded(cell: str) -> str:
    """Remove the apostrophe that `guarded` added.

    Example:
        >>> unguarded("'=1+1.png"), unguarded("'tis.png")
        ('=1+1.png', "'tis.png")
    """
    return cell[1:] if _GUARDED.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, quote_all: bool = False) -> None:
    """Write a CSV file, completely or not at all. Cells with commas, quotes or line breaks are quoted; None is empty.

    Args:
        path: The file.
        header: Names of the columns.
        rows: The cells of each row.
        quote_all: Quote every cell, so that no reader trims blanks.
    """
    write_atomically(path, csv_bytes([header, *rows], quote_all=quote_all))


def csv_bytes(rows: Iterable[Sequence[object]], *, quote_all: bool = False) -> bytes:
    """Rows as CSV in UTF-8, each cell `guarded`; names that are not UTF-8 become their original bytes.

    Raises:
        InputError: If a text cannot be encoded, because it holds half a character (a lone surrogate).
    """
    lines = _Lines()
    # With this line end the writer quotes cells that hold a carriage return; the files themselves end lines with \n.
    writer = csv.writer(lines, lineterminator="\r\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerows([guarded(cell) for cell in row] for row in rows)
    text = "".join(line.removesuffix("\r\n") + "\n" for line in lines)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.end + 20]
        raise InputError(f"{near!r} holds half a character, which cannot be saved: change this text") from error


class _Lines(list[str]):
    """Collects the output of a CSV writer, one text for each row."""

    def write(self, line: str) -> None:
        self.append(line)


def read_csv(path: Path, header: Sequence[str], remedy: str = COPY) -> list[list[str]]:
    """The rows of a CSV file of this package, without its header, each cell `unguarded`.

    Args:
        path: The file.
        header: Required names of the columns.
        remedy: How to create the file again.

    Raises:
        InputError: The file is missing, or there is no permission.
        DamagedFileError: It has other columns, or a row has the wrong number of cells.
    """
    text = read_text(path, remedy)
    with parsing(path, remedy):
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if not rows or rows[0] != list(header):
        found = ", ".join(rows[0])[:200] if rows else ""
        raise damaged(path, f"it begins with {found!r}, not {', '.join(header)!r}", remedy)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise damaged(path, f"row {number} has {len(row)} cells, not {len(header)}", remedy)
    return [[unguarded(cell) for cell in row] for row in rows[1:]]
