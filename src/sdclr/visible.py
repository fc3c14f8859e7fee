"""Texts as people can read them, whatever letters are in them: names of files and classes come from anywhere."""

import unicodedata
from typing import Final

_JOINERS: Final = ("\u200c", "\u200d")
"""They join letters of a word, or parts of an emoji."""

_HIDDEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of letters that turn, break or hide text, or command a terminal."""


def visible(text: str, *, keep: str = "") -> str:
    r"""Write letters that turn, break or hide text, or that command a terminal, as their codes.

    The page's scripts do the same. Halves of characters, as names come that are not UTF-8, are written as codes too, so
    that every stream can print the result.

    Args:
        text: Any text.
        keep: Letters that stay as they are, such as line breaks.

    Example:
        >>> visible("line\nbreak"), visible("\x1b[31mred")
        ('line\\u000abreak', '\\u001b[31mred')
    """
    if text.isprintable():
        return text
    return "".join(_code(letter) if _hides(letter) and letter not in keep else letter for letter in text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines, whose line breaks stay."""
    return visible(text, keep="\n")


def one_line(text: str, most: int) -> str:
    """The same on one line, and without its middle if it has more than `most` characters.

    Example:
        >>> one_line("x" * 100, 9)
        'xxxxxx…xx'
    """
    text = visible(text)
    if len(text) <= most:
        return text
    head = 2 * most // 3
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def _hides(letter: str) -> bool:
    return unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS


def _code(letter: str) -> str:
    return f"\\u{{{ord(letter):x}}}" if ord(letter) > 0xFFFF else f"\\u{ord(letter):04x}"
