"""Parse the arguments of one command and run it."""

from importlib import import_module

from sdclr.cli.parsing import parse
from sdclr.cli.talk import talking

_QUIET = "--quiet"
"""An option of every command."""


def carry_out(argv: list[str]) -> None:
    """Parse the arguments and run the command.

    Args:
        argv: The command's name and its options, `--quiet` among them.

    Raises:
        InputError: There is no such command, or what it was given cannot be used.
        SystemExit: With 2 after a usage error was printed.
    """
    quiet = _QUIET in argv
    argv = [argument for argument in argv if argument != _QUIET]
    if not argv:
        return
    with talking(argv[0], quiet=quiet) as console:
        command = parse(argv)
        import_module(f"sdclr.cli.actions.{argv[0]}").run(command, console)
