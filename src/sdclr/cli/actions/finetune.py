"""Action of `sdclr finetune`."""

from pathlib import Path

from rich.console import Console

from sdclr.cli.commands.finetune import Finetune
from sdclr.cli.plan import tell_images, tell_machine, tell_output
from sdclr.cli.talk import budget, finish, note, spelled
from sdclr.cli.told import tell_encoder
from sdclr.data.sources import open_source
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.finetune import finetune
from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance
from sdclr.longtail.subset import select
from sdclr.reporting.tables import balance_table
from sdclr.time_budget import Budget
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.resolve import ResolvedEncoder, resolve_encoder
from sdclr.visible import counted


def run(command: Finetune, console: Console) -> None:
    """Train, test, and print the table."""
    limit = _budget(command)
    train = select(open_source(command.train), command.subset)
    start = "scratch" if command.start == "scratch" else resolve_encoder(command.start, train)
    run = start.run if isinstance(start, ResolvedEncoder) else None
    method = command.config.method
    out = command.out or (Path("runs") / f"{train.name}-{method}" if run is None else run.path / "finetune" / method)
    device = resolve_device(command.device)
    workers = default_workers(device) if command.workers is None else command.workers
    test = open_source(command.test)
    tell_images(train, console, "train")
    tell_images(test, console, "test")
    if isinstance(start, ResolvedEncoder):
        tell_encoder(start, train, device=device, workers=workers, amp=command.amp, console=console, timed=False)
    else:
        note(console, f"network: {command.config.encoder.name} of random weights")
    length = counted(command.config.epochs, "epoch") if limit is None else f"what fits into {command.minutes:g} min"
    note(console, f"length:  {length} in batches of {command.config.batch_size}, by {method}")
    tell_machine(console, device, workers, command.amp)
    tell_output(console, out)
    result = finetune(
        train,
        test,
        command.config,
        start=start,
        out=out,
        device=device,
        workers=workers,
        amp=command.amp,
        checkpoint_minutes=command.checkpoint_minutes,
        cache_gb=command.cache_gb,
        minutes=limit,
    )
    details = result.score.details
    rows: dict[str, list[Balance]] = {method: [result.score.balance]}
    if "all_experts" in details:
        rows = {"as routed": [result.score.balance], "all experts": [Balance.from_json(details["all_experts"])]}
    console.print(balance_table(rows, title=f"{method}: accuracy by group of classes").rich())
    if "experts_asked" in details:
        console.print(f"experts per image: {details['experts_asked']:.2f} of {command.config.experts}")
    if "tau" in details:
        console.print(f"tau: {details['tau']:g}")
    console.print(f"written to {out / 'result.json'}", markup=False)
    probes = {"encoder": None if command.start == "scratch" else command.start, "out": out / "probes"}
    finish(console, spelled("evaluate", train=command.train, test=command.test, **probes))


def _budget(command: Finetune) -> Budget | None:
    """The time budget of the command; None without one.

    Raises:
        InputError: If epochs are given as well.
    """
    usual = FinetuneConfig()
    given = [name for name in ("epochs", "second_epochs") if getattr(command.config, name) != getattr(usual, name)]
    if command.minutes is not None and given:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(f"--minutes chooses the epochs, which {option} gives: leave out one of them")
    return budget(command.minutes)
