"""Parse the arguments of one command and run it."""

import os
from importlib import import_module

from sdclr.cli.catalog import CATALOG
from sdclr.cli.parsing import parse
from sdclr.cli.talk import talking
from sdclr.errors import InputError
from sdclr.slurm import torch_variables

_QUIET = "--quiet"
"""An option of every command."""
_SEVERAL = {"embed", "pretrain"}
"""Commands that run in several processes."""


def carry_out(argv: list[str]) -> None:
    """Parse the arguments and run the command.

    Args:
        argv: The command's name and its options, including `--quiet`.

    Raises:
        InputError: If there is no such command, its input cannot be used, or it cannot run in several processes.
        SystemExit: With 2 after a usage error was printed.
    """
    quiet = _QUIET in argv
    argv = [argument for argument in argv if argument != _QUIET]
    if not argv:
        return
    os.environ.update(torch_variables())  # only the first of several processes prints
    if argv[0] in CATALOG.keys() - _SEVERAL and os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(
            f"{argv[0]} runs in one process, not in {os.environ['WORLD_SIZE']}: start it without torchrun or srun. "
            "`embed` runs in several, and `sdclr mine IMAGES --encoder EMBEDDINGS` reads what it wrote"
        )
    with talking(argv[0], quiet=quiet) as console:
        command = parse(argv)
        import_module(f"sdclr.cli.actions.{CATALOG[argv[0]].module}").run(command, console)
