"""Parse the arguments of one command and run it."""

from importlib import import_module

from sdclr.cli.consoles import Output
from sdclr.cli.parsing import parse


def carry_out(argv: list[str]) -> None:
    """Parse the arguments and run the command.

    Args:
        argv: The command's name and its options.

    Raises:
        InputError: There is no such command, or what it was given cannot be used.
        SystemExit: With 2 after a usage error was printed.
    """
    command = parse(argv)
    import_module(f"sdclr.cli.actions.{argv[0]}").run(command, Output(highlight=False, soft_wrap=True))
