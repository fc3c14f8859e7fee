"""Results that other programs read."""

import sys
from collections.abc import Iterable


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output. File names come out byte for byte, whether they are UTF-8 or not."""
    for line in lines:
        sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()
