"""Output for other programs."""

import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from sdclr.files import refused
from sdclr.progress_display import aside
from sdclr.visible import visible


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output.

    Other programs get file names byte by byte, even if they are not UTF-8. In a terminal, control characters are shown
    as their codes.
    """
    terminal = sys.stdout.isatty()
    with aside():
        for line in lines:
            text = visible(line, keep="\t") if terminal else line
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()


def unwritten_output(error: BaseException) -> BaseException:
    """The error to report: the one of standard output if it cannot be written, as on a full disk; otherwise `error`.

    In the first case the rest of its buffer is discarded, so that Python does not print an error at its end.
    """
    refusal = error if isinstance(error, OSError) and _prints(error) else None
    try:
        sys.stdout.flush()
    except OSError as later:
        refusal = later
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return error if refusal is None else refused("/dev/stdout", refusal) or error


def _prints(error: OSError) -> bool:
    """Whether an error came from printing, in this package or in rich."""
    frames = traceback.extract_tb(error.__traceback__)
    return error.filename is None and Path(frames[-1].filename).parent.name in {Path(__file__).parent.name, "rich"}
