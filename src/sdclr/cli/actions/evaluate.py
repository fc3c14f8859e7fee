"""`sdclr evaluate`: what it does."""

from rich.console import Console

from sdclr.cli.commands.evaluate import Evaluate
from sdclr.cli.machine import machine
from sdclr.cli.told import tell_encoder
from sdclr.data.sources import open_source
from sdclr.evaluation.evaluate import evaluate
from sdclr.reporting.tables import balance_table
from sdclr.training.resolve import resolve_encoder


def run(command: Evaluate, console: Console) -> None:
    """Measure, and print the table."""
    device, workers = machine(command.device, command.workers)
    train = open_source(command.train)
    used = resolve_encoder(command.encoder, train)
    tell_encoder(used, train, device=device, workers=workers, amp="none", console=console)
    result = evaluate(
        train, command.test, command.config, encoder=used, out=command.out, device=device, workers=workers
    )
    scores = {"linear probe": result.linear, "few-shot probe": result.few_shot, "kNN": result.knn}
    console.print(balance_table({name: [score.balance] for name, score in scores.items()}).rich())
    folder = command.out or used.results
    where = f"written to {folder / f'{command.config.branch}.json'}" if folder else "not written: give --out FOLDER"
    console.print(where, markup=False)
