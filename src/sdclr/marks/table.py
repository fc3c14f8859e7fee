"""Read and write marks as CSV files, including files that a spreadsheet saved."""

import codecs
import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sdclr.data.manifest_rows import PATH_COLUMNS
from sdclr.errors import InputError
from sdclr.files import read_regular, unguarded, write_csv
from sdclr.marks.rows import Decision, Mark, Marks, merged

HEADER: Final = ("path", "id", "mark", "label")
"""Columns of the files of marks that the page and `write_marks` write."""

_PATHS: Final = (*PATH_COLUMNS, "filepath")
_DELIMITERS: Final = ",;\t|"
_YES: Final = frozenset({"1", "1.0", "true", "yes", "y", "x", "drop"})
_NO: Final = frozenset({"0", "0.0", "false", "no", "n", ""})
_LONGEST: Final = 200
"""Maximum characters of a value in an error message."""


def read_marks(*files: str | Path) -> Marks:
    """Read marks from one or several CSV files.

    A file needs a column `id` (or `path`, `image`, `file`, `filename`, `file_name`, `filepath`), and `mark` (keep or
    drop), `label` or `drop` (1 or true for images to drop). Other columns are ignored; the column order and the case
    of names do not matter. Cells may be separated by commas, semicolons, tabs or vertical bars. Files with a byte order
    mark, CRLF or UTF-16 are supported, and so is the table of `sdclr duplicates --out`, with ids in the columns drop
    and keep. Relative paths start from the file's folder. Equal rows count once.

    Args:
        files: The files.

    Returns:
        One mark per image, in order of the first row that names it. Rows without mark and label are kept as empty
        marks.

    Raises:
        InputError: A file cannot be read, is empty, lacks a column, has an unknown mark, or two rows contradict each
            other. The message names file, row and value.

    Examples:
        >>> marks = sdclr.read_marks("marks.csv")
        >>> marks.count("drop"), marks.labels()
        (1, Counter({'ring': 2}))
    """
    if not files:
        raise InputError("no file of marks is named: give the CSV file that the page saved")
    paths = tuple(Path(file) for file in files)
    return Marks(merged(row for path in paths for row in _rows(path)), paths)


def write_marks(path: str | Path, marks: Marks) -> Path:
    """Write marks as the page does: UTF-8, with the columns path, id, mark, label.

    Ids and labels are written unchanged, so that they can be read back. A spreadsheet may treat a cell that begins
    with `=`, `+`, `-` or `@` as a formula: import the columns as text there.

    Args:
        path: The file.
        marks: The marks.

    Returns:
        The file.

    Examples:
        >>> marks = sdclr.Marks((sdclr.Mark(id="star/00.jpg", label="comet"),))
        >>> file = sdclr.write_marks("comets.csv", marks)
        >>> sdclr.read_marks(file).labels()
        Counter({'comet': 1})
    """
    write_csv(Path(path), HEADER, ((row.path, row.id, row.mark, row.label) for row in marks.rows))
    return Path(path)


def is_marks(path: Path) -> bool:
    """Whether a file holds marks: a CSV file with a column `mark` or `drop`."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    return not {"mark", "drop"}.isdisjoint(name.strip().casefold() for name in _table(path)[0])


def _rows(path: Path) -> list[Mark]:
    table = _table(path)
    header = [name.strip().casefold() for name in table[0]]
    places = _columns(header, path)
    found = []
    for number, cells in enumerate(table[1:], start=2):
        if not any(cells):
            continue
        where = f"{path}, row {number}"
        if any(cell.strip() for cell in cells[len(header) :]):
            raise InputError(
                f"{where}: has {len(cells)} cells for {len(header)} columns; put cells that hold a comma in quotes"
            )
        full = [*cells, *[""] * (len(header) - len(cells))]
        said = {name: full[place] for name, place in places.items()}
        found.append(_mark(said | ({"mark": "drop"} if _are_pairs(header) else {}), path, where))
    if not found:
        raise InputError(f"{path}: has no rows below its header; mark images on the page and save the marks again")
    return found


def _mark(cells: dict[str, str], path: Path, where: str) -> Mark:
    said, label = cells.get("mark", "").strip().casefold(), cells.get("label", "").strip()
    if said not in ("keep", "drop", ""):
        raise InputError(f"{where}: the mark is {cells['mark'][:_LONGEST]!r}; give keep, drop, or leave it empty")
    mark: Decision = "keep" if said == "keep" else "drop" if said else ""
    drop = cells.get("drop", "").strip().casefold()
    if drop not in _YES | _NO:
        raise InputError(f"{where}: the column `drop` holds {cells['drop'][:_LONGEST]!r}; give 1 to drop it, or 0")
    if drop in _YES and mark == "keep":
        raise InputError(f"{where}: is marked keep, and drop says {cells['drop']!r}; clear one of the two")
    file = cells.get("path", "")
    if file:
        file = os.path.abspath(path.parent / file)  # noqa: PTH100  # unlike resolve, it follows no links
    return Mark(id=cells.get("id", ""), path=file, mark="drop" if drop in _YES else mark, label=label, where=where)


def _columns(header: Sequence[str], path: Path) -> dict[str, int]:
    """Indices of the columns to read, by the names path, id, mark, label, drop."""
    if _are_pairs(header):
        named = {"id": "drop", "path": "drop_path"}
        return {name: header.index(column) for name, column in named.items() if column in header}
    places = {name: header.index(name) for name in ("id", "mark", "label", "drop") if name in header}
    file = next((name for name in _PATHS if name in header), None)
    if file is not None:
        places["path"] = header.index(file)
    found = ", ".join(header)[:_LONGEST] or "none"
    if not {"id", "path"} & places.keys():
        raise InputError(f"{path}: has the columns {found}; name the one that holds the images' ids `id`, or `path`")
    if not {"mark", "label", "drop"} & places.keys():
        raise InputError(
            f"{path}: has the columns {found}; add a column `mark` (keep or drop), `label`, or `drop` (1 or 0)"
        )
    for name in places:
        if header.count(name) > 1:
            raise InputError(f"{path}: has {header.count(name)} columns named `{name}`; remove or rename all but one")
    return places


def _are_pairs(header: Sequence[str]) -> bool:
    """Whether this is a table of near-duplicates, with ids of images to drop and to keep."""
    return "id" not in header and {"drop", "keep"} <= set(header)


def _table(path: Path) -> list[list[str]]:
    """The cells of all rows, header first."""
    text = _text(path)
    # A spreadsheet may write the delimiter on a separate first line.
    hint, _, rest = text.partition("\n")
    hint = hint.strip()
    if len(hint) == 5 and hint.lower().startswith("sep=") and hint[4] in _DELIMITERS:
        text = rest
    delimiter = max(_DELIMITERS, key=lambda mark: _known(text, mark))
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [[unguarded(cell) for cell in row] for row in rows] or [[]]
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV table ({error}); save it as CSV in UTF-8 again") from error


def _known(text: str, delimiter: str) -> int:
    """Number of known column names in the header with this delimiter."""
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return 0
    known = {"id", "mark", "label", "drop", "keep", *_PATHS}
    return sum(name.strip().casefold() in known for name in header)


def _text(path: Path) -> str:
    data = read_regular(path)
    if not data.strip(b"\0\t\n\r \xef\xbb\xbf\xff\xfe"):
        raise InputError(f"{path}: is empty; mark images on the page and save the marks again")
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        # File names that are not UTF-8 become lone surrogates, as from the file system.
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-16 text ({error.reason}); save it as CSV in UTF-8") from error
