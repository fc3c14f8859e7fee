"""The command line. Only this package parses arguments and prints."""

import sys
from collections.abc import Sequence
from importlib import import_module

from sdclr.cli.catalog import CATALOG
from sdclr.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and turn what can go wrong into one line and an exit code: 2 for bad input, 130/143 when stopped."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    if argv == ["--version"]:
        print(f"sdclr {__version__}")
        return
    if not argv or argv[0] in {"-h", "--help"}:
        print(overview())
        return
    carry_out = import_module("sdclr.cli.carry_out")  # what needs rich and tyro
    carry_out.carry_out(argv, debug=debug)


def overview() -> str:
    """What `sdclr --help` prints."""
    lines = [
        "usage: sdclr COMMAND [OPTIONS]",
        "",
        "Find the rare images of unlabeled, long-tailed collections, and train encoders",
        "that serve rare classes better.",
    ]
    for group in dict.fromkeys(entry.group for entry in CATALOG.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {one.name:<11} {one.summary}" for one in CATALOG.values() if one.group == group]
    lines += [
        "",
        "sdclr COMMAND --help  explains a command.",
        "sdclr --version       prints the version.",
        "--quiet               leaves out all but results and errors, with every command.",
        "--debug               shows the traceback of an error.",
    ]
    return "\n".join(lines)
