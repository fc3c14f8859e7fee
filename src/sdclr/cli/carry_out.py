"""Run one command, and turn what can go wrong into one line and an exit code."""

import sys
from importlib import import_module

from rich.console import Console

from sdclr.cli.parsing import parse
from sdclr.cli.talk import talking
from sdclr.errors import InputError
from sdclr.training.interrupts import Interrupted

_QUIET = "--quiet"
"""An option of every command."""


def carry_out(argv: list[str], *, debug: bool) -> None:
    """Parse the arguments and run the command.

    Args:
        argv: The command's name and its options, `--quiet` among them.
        debug: Let errors through, so that Python shows their traceback.

    Raises:
        SystemExit: With 2 for input that cannot be used, 1 for another error, 130 or 143 when stopped.
    """
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        quiet = _QUIET in argv
        argv = [argument for argument in argv if argument != _QUIET]
        with talking(argv[0], quiet=quiet) as console:
            command = parse(argv)
            import_module(f"sdclr.cli.actions.{argv[0]}").run(command, console)
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
