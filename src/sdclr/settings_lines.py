"""Line numbers of keys in valid settings files, for error messages."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]', re.DOTALL)
_DEPTH: Final = 8
"""Maximum depth of searched JSON keys."""
_LONGEST: Final = 100_000
"""Maximum length of a searched TOML file in characters, because the parser is slow."""
_TRIES: Final = 200
"""Maximum number of prefixes of a TOML file that are parsed."""


def json_line(text: str, key: tuple[str, ...], *, times: int = 1) -> int | None:
    """The line, from 1, of a key in valid JSON; None if it is not found.

    Args:
        text: The whole file.
        key: The key with its parent keys. If `times` is above 1, only the last one counts, in any object.
        times: Which occurrence within one object, from 1.
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
    """Every key with its parent keys, and the position of its first character. List items have numbers as keys."""
    place: list[Any] = []  # the current key of each open object, and the current item number of each open list
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
    """The line, from 1, of the statement that sets a key in valid TOML; None if the search takes too long.

    A prefix of a TOML file is also valid TOML, unless it ends within a value. The key is therefore in the line after
    the longest prefix without it. This needs no second parser.

    Args:
        text: The whole file.
        key: The key with its parent keys.
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
    """The prefixes of a TOML file that are valid TOML."""

    def __init__(self, text: str) -> None:
        self.lines = text.replace("\r\n", "\n").split("\n")
        self._values: dict[int, dict[str, Any] | None] = {0: {}}

    def whole(self, lines: int) -> tuple[int, dict[str, Any]]:
        """Number of lines and values of the longest valid prefix with at most `lines` lines.

        Raises:
            TimeoutError: If too many prefixes were parsed.
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
