"""The output of `sdclr --help`, `sdclr COMMAND --help` and `--help-all`."""

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from sdclr.cli.catalog import CATALOG, GROUPS

ALL: Final = frozenset({"-H", "--help-all"})
ANY: Final = ALL | {"-h", "--help"}
"""Options that print help."""

_WIDEST: Final = 100
_COLUMN: Final = 26
"""Column at which the help of an option starts, if the terminal is wide enough."""
_NARROW: Final = 64
"""Terminals below this width show help under the name of the option."""

_LONG: Final = 40
"""Lists of values longer than this many characters are in the help text instead of after the name."""

_EXIT_CODES: Final = (
    "0 done; 1 an error; 2 an option, a file or a folder that cannot be used; 130 stopped by Ctrl-C; 143 stopped by "
    "SIGTERM; 141 the reader of the output was gone."
)


def overview() -> str:
    """Output of `sdclr --help`: one line per command."""
    width = _width()
    lines = [
        _bold("usage:") + " sdclr COMMAND [OPTIONS]",
        "",
        *_filled(
            "Find the rare images of unlabeled, long-tailed collections, and train encoders that serve rare classes "
            "better.",
            width,
        ),
    ]
    for group in GROUPS:
        members = [(entry.name, entry.summary) for entry in CATALOG.values() if entry.group == group]
        lines += ["", _bold(f"{group}:"), *_table(members, width, column=14)]
    options = (
        ("COMMAND --help", "explain a command; --help-all shows all of its options"),
        ("--version", "print the version"),
        ("--quiet", "leave out all but results and errors"),
        ("--debug", "show the traceback of an error"),
        ("--completion SHELL", "print completions for bash, zsh or fish"),
    )
    lines += ["", _bold("options:"), *_table(options, width, column=22)]
    return "\n".join([*lines, "", _bold("exit codes:"), *_filled(_EXIT_CODES, width, indent="  ")])


def command_help(name: str, *, everything: bool) -> str:
    """Output of a command's `--help` and `--help-all`.

    Args:
        name: The command.
        everything: Show all options with their whole help. Otherwise a command with many options shows those in
            `SHORT` of its module, each with the first sentence of its help.
    """
    from_module = import_module(f"sdclr.cli.commands.{CATALOG[name].module}")
    kind = getattr(from_module, CATALOG[name].kind)
    options = list(import_module("sdclr.cli.optionlist").options_of(kind))
    short: Mapping[str, Sequence[str]] | None = None if everything else getattr(from_module, "SHORT", None)
    width = _width()
    positionals = "".join(f" {one.name}" if one.required else f" [{one.name}]" for one in options if one.positional)
    needed = "".join(f" {one.name} {one.metavar}" for one in options if one.required and not one.positional)
    lines = [
        *_filled(f"usage: sdclr {name}{positionals}{needed} [OPTIONS]", width, later="  "),
        "",
        *_prose(inspect.getdoc(kind) or "", width),
    ]
    if not lines[-1]:
        lines.pop()
    groups = _sections(options) if short is None else _listed(options, short)
    fitted: Sequence[str] = getattr(from_module, "FITTED", ()) if short is not None else ()
    for title, members in groups:
        rows = [(_spelled(one), _told(one, brief=short is not None, fitted=one.name in fitted)) for one in members]
        lines += ["", _bold(f"{title}:"), *_table(rows, width, column=_COLUMN)]
    if short is not None:
        rest = len(options) - sum(len(names) for names in short.values())
        lines += ["", *_filled(f"{rest} more options: sdclr {name} --help-all", width)]
    lines[0] = lines[0].replace("usage:", _bold("usage:"), 1)
    return "\n".join(lines)


def _sections(options: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """All options in groups: arguments, the command's own options, and those of each configuration."""
    titles = dict.fromkeys(_title(one) for one in options)
    for title in titles:
        yield title, [one for one in options if _title(one) == title]


def _title(option: Any) -> str:
    if option.positional:
        return "arguments"
    return f"options --{option.section}" if option.section else "options"


def _listed(options: Sequence[Any], short: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[Any]]]:
    """The most common options, by the titles in the command's module."""
    known = {one.name: one for one in options}
    for title, names in short.items():
        yield title, [known[name] for name in names]


def _spelled(option: Any) -> str:
    if option.flag:
        return f"--[no-]{option.name.removeprefix('--')}" if "." not in option.name else option.name
    metavar = option.metavar
    if len(metavar) > _LONG:
        metavar = "NAME ..." if metavar.endswith(" ...") else "NAME"
    return f"{option.name} {metavar}".rstrip()


def _told(option: Any, *, brief: bool, fitted: bool) -> str:
    text = option.help
    if brief:
        text = text.partition(". ")[0].rstrip(".") + "."
    if len(option.metavar) > _LONG:
        text = f"{text.rstrip('.')}: {', '.join(option.choices)}."
    if option.required and not option.positional:
        return f"{text} (required)"
    return text if fitted or option.default is None else f"{text} (default: {option.default})"


def _table(rows: Iterable[tuple[str, str]], width: int, *, column: int) -> Iterator[str]:
    """Names on the left and text on the right, or below the name if there is no room."""
    beside = width >= _NARROW
    start = " " * (column if beside else 6)
    for name, text in rows:
        lines = textwrap.wrap(text, width - len(start), break_long_words=False) or [""]
        names = _filled(name, width, indent="  ", later="      ")
        if beside and len(names) == 1 and len(name) + 4 <= column:
            yield f"  {name}".ljust(column) + lines.pop(0)
        else:
            yield from names
        for line in lines:
            yield (start + line).rstrip()


def _prose(text: str, width: int) -> Iterator[str]:
    """A docstring with wrapped paragraphs. Indented lines are commands."""
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        if paragraph:
            yield from _filled(" ".join(paragraph), width)
            paragraph = []
        if line:
            yield from _command(line.strip(), width)
        else:
            yield ""


def _command(line: str, width: int) -> Iterator[str]:
    """A shell command, continued over several lines if the terminal is narrow."""
    if line.startswith("#"):
        yield from _filled(line, width, indent="  ", later="  # ")
        return
    parts = textwrap.wrap(line, width - 6, break_long_words=False, break_on_hyphens=False)
    for number, part in enumerate(parts):
        end = " \\" if number + 1 < len(parts) else ""
        yield f"{'  ' if not number else '    '}{part}{end}"


def _filled(text: str, width: int, *, indent: str = "", later: str | None = None) -> list[str]:
    rest = indent if later is None else later
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _width() -> int:
    return min(_WIDEST, max(24, shutil.get_terminal_size().columns))


def _bold(text: str) -> str:
    """Bold text, if the terminal supports it and NO_COLOR (https://no-color.org) is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in {None, "", "dumb"} or not sys.stdout.isatty()
    return text if plain else f"\033[1m{text}\033[0m"
