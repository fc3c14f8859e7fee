"""Ids and labels of image sources."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sdclr.errors import InputError

LABEL_COLUMNS = ("label", "labels", "fine_label")
"""Columns that can hold the class; the first one present is used."""


class NumberedIds(Sequence[str]):
    """The ids "prefix/00000", "prefix/00001", …, computed on access, so that a million of them need no memory."""

    def __init__(self, prefix: str, length: int) -> None:
        self._prefix = prefix
        self._numbers = range(length)
        self._width = max(5, len(str(length - 1)))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._name(number) for number in self._numbers[index]]
        return self._name(self._numbers[index])

    def _name(self, number: int) -> str:
        return f"{self._prefix}/{number:0{self._width}d}"


def encode_labels(values: Iterable[object], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Convert a column of labels to class ids.

    Integers of up to 18 digits (also as text, or as floats from tools without missing integers) are kept and have no
    names. Other values are names, numbered in sorted order. None, NaN and "" become -1: unknown.

    Returns:
        Ids `(N,)` and class names, `()` for numbers.

    Raises:
        InputError: A number is below -1.
    """
    column = [_label(value) for value in values]
    numbers = [_whole_number(value) for value in column]
    if all(number is not None for number in numbers):
        ids = np.array(numbers, dtype=np.int64)
        if (ids < -1).any():
            raise InputError(f"{where}: holds label {ids.min()}; give class numbers from 0, and -1 where unknown")
        return ids, ()
    classes = sorted({str(value) for value in column if value != -1})
    number_of = {name: number for number, name in enumerate(classes)}
    ids = np.array([-1 if value == -1 else number_of[str(value)] for value in column], dtype=np.int64)
    return ids, tuple(classes)


def check_unique(ids: Sequence[str], where: str, mend: str) -> None:
    """Check that no id repeats.

    Raises:
        InputError: An id repeats. The message names the first one.
    """
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise InputError(f"{where}: has two images named {image_id!r}; {mend}")
        seen.add(image_id)


def _label(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return -1
    if isinstance(value, str):
        return value.strip() or -1
    return value


def _whole_number(value: object) -> int | None:
    """A label as an integer of at most 18 digits, which fits int64; None for names and longer numbers."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**18:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", value, flags=re.ASCII):
        return int(value.split(".")[0])
    return None
