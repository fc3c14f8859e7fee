"""Text for people: untrusted names with unprintable characters as codes, and numbers with their nouns."""

import unicodedata
from typing import Final

_JOINERS: Final = ("\u200c", "\u200d")
"""Characters that join letters of a word, or parts of an emoji."""

_HIDDEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of characters that reverse, break or hide text, or control a terminal."""


def visible(text: str, *, keep: str = "") -> str:
    r"""Replace characters that reverse, break or hide text, or control a terminal, by their codes.

    The page's scripts do the same. Surrogates, from names that are not UTF-8, are replaced too, so that every stream
    can print the result.

    Args:
        text: Any text.
        keep: Characters that are not replaced, such as line breaks.

    Examples:
        >>> visible("line\nbreak"), visible("\x1b[31mred")
        ('line\\u000abreak', '\\u001b[31mred')
    """
    if text.isprintable():
        return text
    return "".join(_code(letter) if _hides(letter) and letter not in keep else letter for letter in text)


def visible_lines(text: str) -> str:
    """`visible` for a text of several lines, with its line breaks."""
    return visible(text, keep="\n")


def one_line(text: str, most: int) -> str:
    """`visible` on one line, shortened in the middle to at most `most` characters.

    Examples:
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


def counted(number: int, what: str = "image") -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    plural = f"{what}{'es' if what.endswith('s') else 's'}"
    return f"{number:,} {what if number == 1 else plural}"
