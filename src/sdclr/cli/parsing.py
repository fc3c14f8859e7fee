"""Parsing of arguments into a command with all its options."""

import difflib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from importlib import import_module
from typing import Any, Final

import tyro

from sdclr.cli.catalog import CATALOG
from sdclr.cli.places import check_places
from sdclr.config import check_numbers
from sdclr.errors import InputError

LEAST: Final = {
    **dict.fromkeys(("batch_size", "budget", "epochs", "image_size", "jobs", "k", "splits", "widths"), 1),
    **dict.fromkeys(("cache_gb", "checkpoint_minutes", "page_images", "seed", "thumbnails", "workers"), 0),
}
"""Minimum values of options that several commands have."""

_LONGEST: Final = 8192
"""Maximum length of an argument in characters; paths have at most 4,096."""


def parse(argv: list[str]) -> Any:
    """Parse the arguments of one command. Only the module of this command is imported.

    Args:
        argv: The command's name and its options.

    Returns:
        The command: an instance of its dataclass.

    Raises:
        InputError: If there is no such command, or an option has a value that cannot be used.
        SystemExit: With 0 after the help was printed, with 2 after a usage error was printed.
    """
    for number, argument in enumerate(argv, start=1):
        if len(argument) > _LONGEST:
            raise InputError(
                f"argument {number} has {len(argument):,} characters, more than {_LONGEST:,} ({argument[:40]!r}…): a "
                "name, a path or a number is shorter (was a file's text given instead of its name?)"
            )
    name, *options = argv
    if name not in CATALOG:
        raise InputError(unknown(name))
    module = import_module(f"sdclr.cli.commands.{CATALOG[name].module}")
    if hasattr(module, "parse"):
        return module.parse(options)
    return read(getattr(module, CATALOG[name].kind), name, options)


def read(kind: Any, name: str, options: list[str], default: Any = tyro.MISSING_NONPROP, *, silent: bool = False) -> Any:
    """Parse the options of a command with tyro.

    Args:
        kind: The dataclass.
        name: The command's name.
        options: The words after the name.
        default: An instance with the defaults.
        silent: Do not print usage errors.

    Raises:
        InputError: If a number is too small or not finite, or a file is given instead of a folder, or the reverse.
        SystemExit: With 2 after a usage error.
    """
    quiet = redirect_stderr(io.StringIO()) if silent else nullcontext()  # tyro prints some errors in any case
    with _plain_where_asked(), quiet:
        command = tyro.cli(kind, args=options, prog=f"sdclr {name}", default=default, console_outputs=not silent)
    try:
        check_numbers(command, place="", **LEAST)
    except InputError as error:
        option, _, rest = str(error).partition(" ")
        raise InputError(f"--{option.replace('_', '-')} {rest}") from error
    check_places(name, command)
    return command


@contextmanager
def _plain_where_asked() -> Iterator[None]:
    """Make tyro print errors without colors if NO_COLOR is set, which it ignores, and outside of terminals."""
    term = os.environ.get("TERM")
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        if term is None:
            os.environ.pop("TERM", None)
        else:
            os.environ["TERM"] = term


def unknown(name: str) -> str:
    """Error message for an unknown command."""
    if name.startswith("-"):
        return f"there is no option {name!r} without a command: `sdclr --help` lists the commands"
    near = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no command {name!r}: {hint}`sdclr --help` lists the commands"
