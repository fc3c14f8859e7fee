"""Names as people can read them, whatever letters are in them."""

import unicodedata
from typing import Final

_JOINERS: Final = ("\u200c", "\u200d")
"""They join letters of a word, or parts of an emoji."""

_HIDDEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of letters that turn, break or hide text."""


def visible(text: str) -> str:
    r"""Write letters that turn, break or hide text as their codes, as the page's scripts do.

    Example:
        >>> visible("line\nbreak")
        'line\\u000abreak'
    """
    return "".join(_code(letter) if _hides(letter) else letter for letter in text)


def _hides(letter: str) -> bool:
    return unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS


def _code(letter: str) -> str:
    return f"\\u{{{ord(letter):x}}}" if ord(letter) > 0xFFFF else f"\\u{ord(letter):04x}"
