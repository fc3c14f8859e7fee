"""The command line. Only this package parses arguments and prints.

This module imports little, so `--version` and `--help` are fast and an early interrupt is handled.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from sdclr.cli.stops import stoppable
from sdclr.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line. Errors are printed in one line, and set the exit code.

    Args:
        arguments: The words after the name of the program; by default those of this process.

    Raises:
        SystemExit: With 1 after an error, 2 for an option or input that cannot be used, 130 or 143 when stopped.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    with stoppable():
        try:
            _dispatch(argv)
            sys.stdout.flush()  # a closed pipe raises its error here, not at the end of Python
        except BaseException as error:  # noqa: BLE001  # every ending is reported in one line
            import_module("sdclr.cli.endings").end(error, arguments=argv, debug=debug)


def _dispatch(argv: list[str]) -> None:
    """Run the help, the completion or a command, with as few imports as possible."""
    if argv == ["--version"]:
        print(f"sdclr {__version__}")
        return
    if argv and argv[0] == "--completion":
        print(import_module("sdclr.cli.completion").script(argv[1:]), end="")
        return
    if argv and argv[0] == "help":  # many programs have such a command
        argv = [*argv[1:], "--help"]
    helping = import_module("sdclr.cli.help")
    if not argv or argv[0] in helping.ANY:
        print(helping.overview())
    elif argv[0] in helping.CATALOG and not helping.ANY.isdisjoint(argv):
        print(helping.command_help(argv[0], everything=not helping.ALL.isdisjoint(argv)))
    else:
        import_module("sdclr.cli.carry_out").carry_out(argv)
