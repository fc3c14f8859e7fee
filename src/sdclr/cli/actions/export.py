"""Action of `sdclr export`."""

from rich.console import Console

from sdclr.cli.commands.export import Export
from sdclr.cli.talk import finish, note
from sdclr.training.export import export


def run(command: Export, console: Console) -> None:
    """Write the files, and print their names."""
    written = export(command.encoder, command.folder, command.formats)
    for file in written.files:
        console.print(f"{written.folder / file}", markup=False)
    for name, why in written.left_out.items():
        note(console, f"no {name}: {why}")
    finish(console)
