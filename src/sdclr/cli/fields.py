"""Lines with a name and a value, wrapped to the terminal's width."""

import shutil
import textwrap
from typing import Final

from sdclr.visible import visible

_NAME: Final = 13
"""Number of columns of the name."""
_WIDEST: Final = 80
_NARROWEST: Final = 40


def field(name: str, value: str) -> str:
    """A name and its value, wrapped next to it.

    Args:
        name: At most 12 characters.
        value: Any text. Line breaks and control characters are shown as their codes.

    Returns:
        Lines of at most 80 columns, fewer in a narrow terminal.

    Examples:
        >>> field("cores", "2 of 4")
        'cores        2 of 4'
    """
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    return textwrap.fill(
        visible(value),
        width=width,
        initial_indent=f"{name:<{_NAME}}",
        subsequent_indent=" " * _NAME,
        break_on_hyphens=False,
    ).rstrip()


def shortened(text: str, most: int) -> str:
    """A text shortened in the middle to a maximum number of characters.

    Examples:
        >>> shortened("images/birds/0001.jpg", 13)
        'images…01.jpg'
    """
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
