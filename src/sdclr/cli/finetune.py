"""`sdclr finetune`: its options, and what it does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from sdclr.data.sources import open_source
from sdclr.data.subset import SubsetConfig, select
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.finetune import finetune
from sdclr.encoders import DEFAULT as DEFAULT_ENCODER
from sdclr.encoders.load import GRAMMAR
from sdclr.evaluation.balance import Balance
from sdclr.reporting.tables import balance_table
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.resolve import ResolvedEncoder, resolve_encoder


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a classifier on labeled, long-tailed images, from an encoder or from scratch, and test it.

    Methods: RIDE (several experts and a router, for ResNets), plain cross-entropy, LDAM with deferred re-weighting,
    balanced softmax, cRT, tau-norm. A stopped command resumes. Results go to OUT/result.json.

    For example:
        sdclr finetune --train ./train --test ./test --method balanced_softmax
        sdclr finetune --start runs/a --train ./cifar10:train --test ./cifar10:test --method ride
        sdclr finetune --start scratch --train ./lt --test ./test --method ldam_drw --encoder.name resnet32
    """

    start: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ENCODER",
            help=f"The encoder to start from: {GRAMMAR}; or scratch, for random weights of --encoder.name. By "
            f"default {DEFAULT_ENCODER}.",
        ),
    ] = None
    train: str
    """Labeled images to train on: images as for `sdclr pretrain`."""
    test: str
    """Labeled images of the same classes to test on."""
    out: Path | None = None
    """Folder to write into; by default RUN/finetune/METHOD for a run, or runs/METHOD."""
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(default_factory=FinetuneConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode large images; by default as `sdclr pretrain` chooses."""
    amp: Literal["auto", "none", "bf16"] = "auto"
    """Mixed precision; auto takes bf16 where the hardware has units for it."""
    checkpoint_minutes: float = 5.0
    """Save the whole state at least this often; 0 saves at every step."""
    progress: bool = True
    """Show a progress bar on standard error."""


def finetune_command(command: Finetune, console: Console) -> None:
    """Train, test, and tell the figures."""
    train = select(open_source(command.train), command.subset)
    start = "scratch" if command.start == "scratch" else resolve_encoder(command.start, train)
    run = start.run if isinstance(start, ResolvedEncoder) else None
    method = command.config.method
    out = command.out or (Path("runs") / method if run is None else run.path / "finetune" / method)
    device = resolve_device(command.device)
    result = finetune(
        train,
        command.test,
        command.config,
        start=start,
        out=out,
        device=device,
        workers=default_workers(device) if command.workers is None else command.workers,
        progress=command.progress,
        amp=command.amp,
        checkpoint_minutes=command.checkpoint_minutes,
    )
    details = result.score.details
    rows: dict[str, list[Balance]] = {method: [result.score.balance]}
    if "all_experts" in details:
        rows = {"as routed": [result.score.balance], "all experts": [_balance(details["all_experts"])]}
    console.print(balance_table(rows, title=f"{method}: accuracy by group of classes").rich())
    if "experts_asked" in details:
        console.print(f"experts asked an image: {details['experts_asked']:.2f} of {command.config.experts}")
    if "tau" in details:
        console.print(f"tau: {details['tau']:g}")
    console.print(f"written to {out / 'result.json'}")


def _balance(figures: dict[str, float | None]) -> Balance:
    """Figures as a result file holds them: null where unknown."""
    return Balance(**{name: float("nan") if value is None else value for name, value in figures.items()})
