"""The command line. Only this package parses arguments and prints."""

import sys
from collections.abc import Sequence

from rich.console import Console

from sdclr.cli.actions import perform
from sdclr.cli.parsing import parse
from sdclr.errors import InputError
from sdclr.training.interrupts import Interrupted
from sdclr.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and turn what can go wrong into one line and an exit code: 2 for bad input, 130/143 when stopped."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if argv == ["--version"]:
        print(f"sdclr {__version__}")
        return
    try:
        perform(parse(argv))
    except Interrupted as stop:
        errors.print(f"{stop}; the same command goes on from there", markup=False)
        sys.exit(stop.exit_code)
    except (InputError, FloatingPointError) as error:
        if debug:
            raise
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(str(error), markup=False)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
