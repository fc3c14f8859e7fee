"""Action of `sdclr evaluate`."""

from rich.console import Console

from sdclr.cli.commands.evaluate import Evaluate
from sdclr.cli.machine import machine
from sdclr.cli.plan import tell_images, tell_plan
from sdclr.cli.talk import finish, note, spelled
from sdclr.data.sources import open_source
from sdclr.evaluation.evaluate import evaluate
from sdclr.reporting.tables import balance_table
from sdclr.training.resolve import resolve_encoder


def run(command: Evaluate, console: Console) -> None:
    """Evaluate, and print the table."""
    device, workers = machine(command.device, command.workers)
    train = open_source(command.train)
    used = resolve_encoder(command.encoder, train)
    test = open_source(command.test)
    folder = command.out or used.results
    tell_images(test, console, "test")
    tell_plan(console, train, used, device=device, workers=workers, amp=command.amp, out=folder)
    result = evaluate(
        train,
        test,
        command.config,
        encoder=used,
        out=command.out,
        device=device,
        workers=workers,
        amp=command.amp,
    )
    scores = {"linear probe": result.linear, "few-shot probe": result.few_shot, "kNN": result.knn}
    console.print(balance_table({name: [score.balance] for name, score in scores.items()}).rich())
    if not result.description["groups"]:
        note(
            console,
            "Many, Medium and Few: unknown, because the encoder was not trained on labeled images with classes of "
            "different sizes",
        )
    if folder is None:
        note(console, "not written: give --out FOLDER")
    else:
        console.print(f"written to {folder / f'{command.config.branch}.json'}", markup=False)
    finish(
        console,
        spelled("report", command.encoder) if used.run is not None else None,
        spelled("diagnose", command.train, encoder=command.encoder),
    )
