"""`sdclr attributes`: how evenly an encoder serves frequent and rare attributes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sdclr.evaluation.attributes import AttributeConfig, evaluate_attributes
from sdclr.reporting.tables import balance_table
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Measure how well, and how evenly, a run's encoder tells attributes, where images have several labels.

    For each attribute a linear layer on the frozen features and its average precision; for attributes that many, some
    and few images show, over all, and the spread between the three groups (Std). Attributes come in a column
    `attributes` (`red;striped`) of a manifest or Parquet file, or in columns `attr:NAME` of 0 and 1.

    For example:
        sdclr attributes runs/a --train labelled.csv --test test.csv
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Folder of a run.")]
    train: str
    """Images with attributes for the probes: a source as for `sdclr pretrain`."""
    test: str
    """Others, to test on."""
    config: Annotated[AttributeConfig, tyro.conf.arg(name="")] = field(default_factory=AttributeConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, 16 at the most."""


def attributes_command(command: Attributes, console: Console) -> None:
    """Measure, and tell the figures."""
    run = Run.open(command.run)
    workers = default_workers() if command.workers is None else command.workers
    device = resolve_device(command.device)
    result = evaluate_attributes(run, command.train, command.test, command.config, device=device, workers=workers)
    rows = {
        "linear probe": [result.linear.balance],
        "few-shot probe": [result.few_shot.balance],
        "at random": [result.base_rate],
    }
    console.print(balance_table(rows, title="Average precision by group of attributes").rich())
    if result.linear.untrained:
        console.print(f"left out, since no labelled image tells: {', '.join(result.linear.untrained)}", markup=False)
    name = "attributes" if command.config.branch == "dense" else "attributes-sparse"
    console.print(f"written to {run.results / f'{name}.json'}")
