"""`sdclr attributes`: how evenly an encoder serves frequent and rare attributes."""

from rich.console import Console

from sdclr.cli.commands.attributes import Attributes
from sdclr.data.sources import open_source
from sdclr.evaluation.attributes import evaluate_attributes
from sdclr.reporting.tables import balance_table
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.resolve import resolve_encoder


def run(command: Attributes, console: Console) -> None:
    """Measure, and tell the figures."""
    train = open_source(command.train)
    used = resolve_encoder(command.encoder, train)
    workers = default_workers() if command.workers is None else command.workers
    device = resolve_device(command.device)
    result = evaluate_attributes(
        train, command.test, command.config, encoder=used, out=command.out, device=device, workers=workers
    )
    rows = {
        "linear probe": [result.linear.balance],
        "few-shot probe": [result.few_shot.balance],
        "at random": [result.base_rate],
    }
    console.print(balance_table(rows, title="Average precision by group of attributes").rich())
    if result.linear.untrained:
        console.print(f"left out, since no labeled image tells: {', '.join(result.linear.untrained)}", markup=False)
    name = "attributes" if command.config.branch == "dense" else "attributes-sparse"
    folder = command.out or used.results
    where = f"written to {folder / f'{name}.json'}" if folder else "not written: give --out FOLDER"
    console.print(where, markup=False)
