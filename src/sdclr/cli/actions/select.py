"""`sdclr select`: what it does."""

from rich.console import Console

from sdclr.cli.bar import progress_bar
from sdclr.cli.commands.select import Select
from sdclr.cli.labels import labelled_ids, spent, write_choice
from sdclr.cli.lines import write_lines
from sdclr.cli.machine import machine
from sdclr.cli.told import tell_encoder
from sdclr.mining.choose import choose_to_label
from sdclr.mining.mine import open_mined


def run(command: Select, console: Console) -> None:
    """Choose, and print or write the ids."""
    device, workers = machine(command.device, command.workers)
    labelled = labelled_ids(command.labelled)
    source, used = open_mined(command.images, command.encoder)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)  # ids go to standard output
    tell_encoder(used, source, device=device, workers=workers, amp="auto", console=errors)
    with progress_bar("reading images") as told:
        choice = choose_to_label(
            source,
            command.budget,
            encoder=used,
            method=command.method,
            labelled=labelled,
            out=command.folder,
            seed=command.seed,
            device=device,
            workers=workers,
            progress=told,
        )
    lines = [*spent(choice, command.method, labelled)]
    if command.out is None:
        write_lines(choice.ids)
    else:
        write_choice(choice, command.out)
        lines.append(f"to label next: {command.out}")
    for line in lines:
        (errors if command.out is None else console).print(line, markup=False)
