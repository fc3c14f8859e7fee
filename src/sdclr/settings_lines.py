"""On which line of a settings file a key stands: for messages, and only for files that parse."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]', re.DOTALL)
_DEPTH: Final = 8
"""Levels of JSON in which keys are sought."""
_LONGEST: Final = 100_000
"""Characters of a TOML file that is searched. Its parser is slow."""
_TRIES: Final = 200
"""Beginnings of a TOML file that are parsed at most."""


def json_line(text: str, key: tuple[str, ...], *, times: int = 1) -> int | None:
    """The line, from 1, of a key of valid JSON; None if it is not there.

    Args:
        text: The whole file.
        key: The key and those that lead to it. If `times` is above 1, only the last counts, at any place.
        times: Where it stands for the so-many-eth time in one object.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for place, position in _json_keys(text):
        seen[place] = seen.get(place, 0) + 1
        names = tuple(name for name in place if isinstance(name, str))
        found = names == key if times == 1 else place[-1:] == key[-1:]
        if found and seen[place] == times:
            return text.count("\n", 0, position) + 1
    return None


def _json_keys(text: str) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Every key with those that lead to it, and the position of its first character. Items of lists have numbers."""
    place: list[Any] = []  # for each open object the key at hand, for each open list the number of the item
    expects_key = False
    for token in _TOKEN.finditer(text):
        match token[0][0]:
            case "{":
                place.append("")
                expects_key = True
            case "[":
                place.append(0)
                expects_key = False
            case "}" | "]":
                place.pop()
                expects_key = False
            case ",":
                if isinstance(place[-1], int):
                    place[-1] += 1
                else:
                    expects_key = True
            case ":":
                expects_key = False
            case _ if expects_key:
                place[-1] = json.loads(token[0])
                if len(place) <= _DEPTH:
                    yield tuple(place), token.start()


def toml_line(text: str, key: tuple[str, ...]) -> int | None:
    """The line, from 1, on which the statement of valid TOML begins that sets a key; None if that takes long to find.

    The beginning of a TOML file is TOML too, unless it ends within a value. So the key stands after the longest
    beginning without it. That needs no second parser.

    Args:
        text: The whole file.
        key: The key and those that lead to it.
    """
    if len(text) > _LONGEST:
        return None
    beginnings = _Beginnings(text)
    try:
        last = len(beginnings.lines)
        if not _holds(beginnings.whole(last)[1], key):
            return None
        low, high = 0, last  # the first `low` lines lack the key, the first `high` lines have it
        while high - low > 1:
            middle = (low + high) // 2
            if _holds(beginnings.whole(middle)[1], key):
                high = middle
            else:
                low = middle
        return beginnings.whole(high - 1)[0] + 1
    except TimeoutError:
        return None


class _Beginnings:
    """The beginnings of a TOML file that are TOML themselves."""

    def __init__(self, text: str) -> None:
        self.lines = text.replace("\r\n", "\n").split("\n")
        self._values: dict[int, dict[str, Any] | None] = {0: {}}

    def whole(self, lines: int) -> tuple[int, dict[str, Any]]:
        """The longest beginning of at most so many lines: its number of lines, and its values.

        Raises:
            TimeoutError: Too many were parsed already.
        """
        while (values := self._parsed(lines)) is None:
            lines -= 1
        return lines, values

    def _parsed(self, lines: int) -> dict[str, Any] | None:
        if lines not in self._values:
            if len(self._values) > _TRIES:
                raise TimeoutError
            try:
                self._values[lines] = tomllib.loads("\n".join(self.lines[:lines]) + "\n")
            except (ValueError, RecursionError):
                self._values[lines] = None
        return self._values[lines]


def _holds(values: Any, key: tuple[str, ...]) -> bool:
    for part in key:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
