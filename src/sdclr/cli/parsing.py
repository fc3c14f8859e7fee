"""From arguments to a command with all its options."""

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
"""The smallest value of options that several commands have."""

_LONGEST: Final = 8192
"""Characters of one argument: paths have at most 4,096."""


def parse(argv: list[str]) -> Any:
    """Read the arguments of one command.

    Args:
        argv: The command's name and its options. Only the module of this command is loaded.

    Returns:
        The command: an instance of its dataclass.

    Raises:
        InputError: There is no such command, or an option has a value that cannot be used.
        SystemExit: With 0 after the help was printed, with 2 after a usage error was.
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
    """Let tyro read the options of a command.

    Args:
        kind: The dataclass.
        name: The command's name.
        options: What follows the name.
        default: An instance to take defaults from.
        silent: Print nothing of a usage error.

    Raises:
        InputError: A number is too small for every command, or no finite one; or a file is named where a folder is
            needed, or the other way round.
        SystemExit: With 2 after a usage error.
    """
    with _plain_where_asked():
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
    """Have tyro print errors without colors under NO_COLOR, which it does not know, and outside of terminals."""
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
    """What to say of a command that does not exist."""
    if name.startswith("-"):
        return f"there is no option {name!r} without a command: `sdclr --help` lists the commands"
    near = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no command {name!r}: {hint}`sdclr --help` lists the commands"
