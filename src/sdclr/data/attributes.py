"""Multi-label attributes: which attributes each image shows, and how tables store them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.errors import InputError

ATTRIBUTE_LIST = "attributes"
"""The column that lists the attributes of each image."""

INDICATOR_PREFIX = "attr:"
"""Name prefix of a column that states for each image whether it shows one attribute."""

MAX_ATTRIBUTES = 10_000
"""Maximum number of different attributes of one source; a column with more is probably free text."""

_INDICATORS = {"1": 1, "true": 1, "0": 0, "false": 0, "-1": -1, "": None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributes:
    """The attributes that each image shows.

    Attributes:
        values: `(N, A)` int8: 1 shown, 0 not shown, -1 unknown. Booleans are accepted.
        names: The name of each attribute.

    Raises:
        InputError: Shape and names do not match, a name repeats, or a value is invalid.
    """

    values: NDArray[np.int8]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or values.shape[1] != len(self.names) or values.dtype.kind not in "biu":
            raise InputError(
                f"attributes have shape {values.shape} and type {values.dtype} for {len(self.names)} names; give whole "
                "numbers or booleans as (images, attributes), one column for each name"
            )
        for number, name in enumerate(self.names):
            if name in self.names[:number]:
                raise InputError(f"attribute {name!r} is named twice; give each attribute one column")
        if values.size and (values.min() < -1 or values.max() > 1):
            row, column = np.argwhere((values > 1) | (values < -1))[0].tolist()
            raise InputError(
                f"attribute {self.names[column]!r} of image {row} is {values[row, column]}; "
                "give 1 (shown), 0 (not shown) or -1 (unknown)"
            )
        object.__setattr__(self, "values", values.astype(np.int8, copy=False))

    def __len__(self) -> int:
        return len(self.values)

    def take(self, positions: ArrayLike) -> "Attributes":
        """The attributes of some images."""
        return Attributes(values=self.values[np.asarray(positions, dtype=np.int64)], names=self.names)

    def named(self, names: Sequence[str]) -> "Attributes":
        """Select attributes, in the order of `names`; attributes that do not exist are unknown."""
        values = np.full((len(self), len(names)), -1, dtype=np.int8)
        place = {name: number for number, name in enumerate(self.names)}
        for column, name in enumerate(names):
            if name in place:
                values[:, column] = self.values[:, place[name]]
        return Attributes(values=values, names=tuple(names))

    def positive_counts(self) -> NDArray[np.int64]:
        """Number of images that show each attribute, `(A,)`."""
        counts: NDArray[np.int64] = (self.values == 1).sum(axis=0, dtype=np.int64)
        return counts


def attribute_columns(columns: Sequence[str], where: str) -> list[str]:
    """The columns of a table that hold attributes: the list `attributes`, or indicators named `attr:NAME`.

    Args:
        columns: The names of all columns.
        where: Name of the table in error messages.

    Returns:
        Their names in order; empty if the table has no attributes.

    Raises:
        InputError: Both kinds exist, or a column occurs twice or has no name after `attr:`.
    """
    indicators = [name for name in columns if name.startswith(INDICATOR_PREFIX)]
    lists = [name for name in columns if name == ATTRIBUTE_LIST]
    if indicators and lists:
        raise InputError(
            f"{where}: has both a column `{ATTRIBUTE_LIST}` and indicators such as `{indicators[0]}`; keep one kind"
        )
    found = lists + indicators
    bare = [name.removeprefix(INDICATOR_PREFIX).strip() for name in found]
    for number, name in enumerate(bare):
        if not name:
            raise InputError(f"{where}: has a column `{found[number]}` without a name; write {INDICATOR_PREFIX}NAME")
        if name in bare[:number]:
            raise InputError(f"{where}: has the column `{found[number]}` twice; remove or rename one")
    return found


def read_attributes(
    columns: Mapping[str, Sequence[object]], where: str, *, names: Sequence[str] = ()
) -> Attributes | None:
    """Read the attributes from a table's columns.

    Args:
        columns: The values of the columns that `attribute_columns` found.
        where: Name of the table in error messages.
        names: Attribute names by number, if known.

    Returns:
        The attributes; None without columns.

    Raises:
        InputError: A value is not an indicator or a list of attributes; names row (from 1), column and value.
    """
    if not columns:
        return None
    if ATTRIBUTE_LIST in columns:
        return _from_lists(columns[ATTRIBUTE_LIST], where, names)
    return _from_indicators(columns, where)


def _from_indicators(columns: Mapping[str, Sequence[object]], where: str) -> Attributes:
    """Read 0 and 1, false and true, or -1 and 1 in the whole table; empty cells are unknown."""
    read: dict[str, list[int | None]] = {}
    for column, values in columns.items():
        texts = {value: _text(value) for value in set(values)}
        wrong = {value for value, text in texts.items() if text not in _INDICATORS}
        if wrong:
            row = next(row for row, value in enumerate(values) if value in wrong)
            raise InputError(
                f"{where}: row {row + 1} of column `{column}` holds {values[row]!r}; write 1 (shown), 0 or -1 (not "
                "shown), true or false, and leave it empty where unknown"
            )
        read[column] = [_INDICATORS[texts[value]] for value in values]
    by_value = {
        value: (column, meanings.index(value))
        for column, meanings in read.items()
        for value in (0, -1)
        if value in meanings
    }
    if len(by_value) == 2:
        (zero, _), (minus, row) = by_value[0], by_value[-1]
        raise InputError(
            f"{where}: row {row + 1} of column `{minus}` holds -1, and column `{zero}` holds 0; write what an image "
            "does not show as 0, or as -1, throughout, and leave it empty where unknown"
        )
    known = {1: 1, 0: 0, -1: 0, None: -1}
    array = np.array([[known[meaning] for meaning in column] for column in read.values()], dtype=np.int8).T
    return Attributes(values=array, names=tuple(name.removeprefix(INDICATOR_PREFIX).strip() for name in read))


def _from_lists(cells: Sequence[object], where: str, names: Sequence[str]) -> Attributes:
    """Read texts such as `hat;dog`, or lists of names or numbers. None is unknown; an empty cell has no attributes."""
    rows = [_members(cell, row, where, names) for row, cell in enumerate(cells)]
    _refuse_vectors(cells, where)
    members = {member for found in rows for member in found or ()}
    if len(members) > MAX_ATTRIBUTES:
        raise InputError(
            f"{where}: column `{ATTRIBUTE_LIST}` holds {len(members)} different attributes, more than "
            f"{MAX_ATTRIBUTES}; rename the column if it is free text"
        )
    others = members.difference(names)
    numbers = all(member.isascii() and member.isdigit() and len(member) < 19 for member in others)
    ordered = (*names, *sorted(others, key=lambda member: (int(member) if numbers else 0, member)))
    place = {member: number for number, member in enumerate(ordered)}
    values = np.zeros((len(rows), len(ordered)), dtype=np.int8)
    for row, found in enumerate(rows):
        if found is None:
            values[row] = -1
        else:
            values[row, [place[member] for member in found]] = 1
    return Attributes(values=values, names=ordered)


def _members(cell: object, row: int, where: str, names: Sequence[str]) -> list[str] | None:
    """The attributes in one cell. A number becomes its name, or its digits if it has no name."""
    if cell is None:
        return None
    if isinstance(cell, str):
        return [part.strip() for part in cell.replace("|", ";").split(";") if part.strip()]
    if not isinstance(cell, Sequence):
        raise InputError(
            f"{where}: row {row + 1} of column `{ATTRIBUTE_LIST}` holds {cell!r}; give the names of what the image "
            "shows, separated by semicolons, or a list of them"
        )
    found = []
    for member in cell:
        number = isinstance(member, int) and not isinstance(member, bool) and member >= 0
        if not (number or (isinstance(member, str) and member)) or (number and names and member >= len(names)):
            allowed = f"numbers from 0 to {len(names) - 1}" if names else "names, or numbers from 0"
            raise InputError(f"{where}: row {row + 1} of column `{ATTRIBUTE_LIST}` lists {member!r}; give {allowed}")
        found.append(names[member] if number and names else str(member))
    return found


def _refuse_vectors(cells: Sequence[object], where: str) -> None:
    """Check that lists do not hold a 0 or 1 for every attribute, which would be read as attributes 0 and 1."""
    lists = [cell for cell in cells if isinstance(cell, Sequence) and not isinstance(cell, str)]
    equally_long = len({len(cell) for cell in lists}) == 1 and len(lists[0]) > 2
    if equally_long and all(member in {0, 1} for cell in lists for member in cell):
        raise InputError(
            f"{where}: column `{ATTRIBUTE_LIST}` holds a 0 or 1 for every attribute; list the numbers of those that an "
            f"image shows, or write one column {INDICATOR_PREFIX}NAME for each attribute"
        )


def _text(value: object) -> str:
    """An indicator as normalized text: "1" for 1, 1.0 and "1"; "true" for " True" and True; "" for missing values."""
    if value is None or value != value:  # noqa: PLR0124  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().lower()
    return text.removesuffix(".0") if text in {"1.0", "0.0", "-1.0"} else text
