"""Action of `sdclr evaluate-attributes`."""

from rich.console import Console

from sdclr.cli.commands.evaluate_attributes import EvaluateAttributes
from sdclr.cli.machine import machine
from sdclr.cli.plan import tell_images, tell_plan
from sdclr.cli.talk import finish, note, spelled
from sdclr.data.sources import open_source
from sdclr.evaluation.attributes import evaluate_attributes
from sdclr.reporting.tables import balance_table
from sdclr.training.resolve import resolve_encoder


def run(command: EvaluateAttributes, console: Console) -> None:
    """Evaluate, and print the table."""
    train = open_source(command.train)
    used = resolve_encoder(command.encoder, train)
    device, workers = machine(command.device, command.workers)
    test = open_source(command.test)
    folder = command.out or used.results
    tell_images(test, console, "test")
    tell_plan(console, train, used, device=device, workers=workers, amp="none", out=folder)
    result = evaluate_attributes(
        train, test, command.config, encoder=used, out=command.out, device=device, workers=workers
    )
    rows = {
        "linear probe": [result.linear.balance],
        "few-shot probe": [result.few_shot.balance],
        "at random": [result.base_rate],
    }
    console.print(balance_table(rows, title="Average precision by group of attributes").rich())
    if result.linear.untrained:
        console.print(
            f"left out, because no labeled image states them: {', '.join(result.linear.untrained)}", markup=False
        )
    name = "attributes" if command.config.branch == "dense" else "attributes-sparse"
    if folder is None:
        note(console, "not written: give --out FOLDER")
    else:
        console.print(f"written to {folder / f'{name}.json'}", markup=False)
    finish(
        console,
        spelled("report", command.encoder) if used.run is not None else None,
        spelled("mine", command.train, encoder=command.encoder),
    )
