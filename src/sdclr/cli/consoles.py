"""Consoles that leave the end of a program to `sdclr.cli.endings`."""

from rich.console import Console


class Output(Console):
    """A console that lets the error of a closed pipe through. rich's would end the program with exit code 1."""

    def on_broken_pipe(self) -> None:
        """Called where writing has failed."""
        raise BrokenPipeError
