"""Text for other programs and for people."""

import sys
from collections.abc import Iterable

from sdclr.progress_display import aside


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output. File names come out byte for byte, whether they are UTF-8 or not."""
    with aside():
        for line in lines:
            sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()


def shown(image_id: str) -> str:
    """An id for people: a terminal can print no lone surrogates, as names that are not UTF-8 come."""
    return image_id.encode("utf-8", "replace").decode()
