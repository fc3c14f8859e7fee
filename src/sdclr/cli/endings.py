"""The end of a command: the printed line and the exit code."""

import os
import select
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from sdclr.cli.catalog import CATALOG
from sdclr.cli.lines import unwritten_output
from sdclr.cli.stops import Terminated, was_asked
from sdclr.cli.traces import save_trace
from sdclr.decoding.lost import as_lost
from sdclr.errors import DamagedFileError, InputError, OutOfMemoryError, ProcessLostError, StorageError
from sdclr.out_of_memory import is_out_of_memory
from sdclr.training.interrupts import Interrupted
from sdclr.visible import one_line, visible

ERROR: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
TERMINATED: Final = 143
NO_READER: Final = 141
"""Exit codes. Those above 128 are a shell's codes for a program that a signal ended: 128 plus its number."""

_LONGEST: Final = 400
"""Maximum length of the message of an unexpected error."""
_PACKAGE: Final = Path(__file__).parents[1]
_NO_USAGE: Final = (StorageError, DamagedFileError, OutOfMemoryError, ProcessLostError)
"""Errors of the machine, not of the command line."""


def end(error: BaseException, *, arguments: Sequence[str], debug: bool) -> NoReturn:
    """End the program after an exception: print one line and exit with a code.

    Args:
        error: The exception that `main` caught.
        arguments: The command line: the name of the command, and its options.
        debug: Raise errors again, so that Python shows their traceback.

    Raises:
        SystemExit: With the exit code.
    """
    command = arguments[0] if arguments else ""
    stored = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if was_asked():
        error = Terminated()
    if _reader_is_gone(error):
        # The rest of the buffer is discarded, so that Python does not print an error at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(NO_READER) from None
    if isinstance(error, SystemExit) and not isinstance(error, Terminated):
        raise error
    if isinstance(error, Interrupted):
        _say(f"{error}; run the same command to resume")
        raise SystemExit(error.exit_code) from None
    if isinstance(error, KeyboardInterrupt | Terminated):
        by, code = ("SIGTERM", TERMINATED) if isinstance(error, Terminated) else ("Ctrl-C", INTERRUPTED)
        resumes = command in CATALOG and CATALOG[command].resumes
        _say(f"stopped by {by}{stored}{'; run the same command to resume' if resumes else ''}")
        raise SystemExit(code) from None
    if debug:
        raise error
    error = unwritten_output(as_lost(error) or error)
    _say(_explained(error, arguments), title="error:")
    usage = isinstance(error, InputError) and not isinstance(error, _NO_USAGE)
    raise SystemExit(USAGE if usage else ERROR) from None


def _explained(error: BaseException, arguments: Sequence[str]) -> str:
    """An error in one line, with a remedy."""
    text = " ".join(str(error).split())
    if isinstance(error, StorageError):
        resumes = bool(arguments) and arguments[0] in CATALOG and CATALOG[arguments[0]].resumes
        return f"{error}; {'the same command then resumes' if resumes else 'then run the same command again'}"
    if isinstance(error, InputError | FloatingPointError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory: give a smaller --batch-size, smaller images or fewer --workers ({text[:_LONGEST]})"
    if isinstance(error, OSError) and error.strerror:
        return one_line(text, 2 * _LONGEST)
    trace = save_trace(error, arguments)
    where = "the traceback, which the same command shows with --debug" if trace is None else f"the file {trace}"
    return (
        f"unexpected {type(error).__name__}{_place(error)}: {text[:_LONGEST]}. This is a bug in sdclr: please report "
        f"it with {where}"
    )


def _place(error: BaseException) -> str:
    """The place in this package where an error was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in Path(frame.filename).parents]
    if not frames:
        return ""
    return f" in {Path(frames[-1].filename).relative_to(_PACKAGE.parent)}, line {frames[-1].lineno}"


def _say(text: str, *, title: str = "") -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if title:
        console.print(title, style="bold red", end=" ")
    console.print(visible(text), markup=False)


def _reader_is_gone(error: BaseException) -> bool:
    """Whether the program that reads standard output, such as `head`, has ended."""
    if not isinstance(error, BrokenPipeError):
        return False
    if not hasattr(select, "poll"):  # Windows
        return True
    asked = select.poll()
    try:
        asked.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # the stream is not a file
        return False
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in asked.poll(0))
