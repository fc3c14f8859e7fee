"""`sdclr attributes`: how evenly an encoder serves frequent and rare attributes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sdclr.data.sources import open_source
from sdclr.encoders import DEFAULT as DEFAULT_ENCODER
from sdclr.encoders.load import GRAMMAR
from sdclr.evaluation.attributes import AttributeConfig, evaluate_attributes
from sdclr.reporting.tables import balance_table
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.resolve import resolve_encoder


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Measure how well, and how evenly, an encoder tells attributes, where images have several labels.

    Trains a linear layer on the frozen features for each attribute and reports average precision: for attributes that
    many, some and few images show, over all, and the spread between the three groups (Std). Attributes come in a column
    `attributes` (`red;striped`) of a manifest or Parquet file, or in columns `attr:NAME` of 0 and 1.

    For example:
        sdclr attributes --encoder runs/a --train labeled.csv --test test.csv
    """

    encoder: Annotated[
        str | None,
        tyro.conf.arg(metavar="ENCODER", help=f"{GRAMMAR}. By default {DEFAULT_ENCODER}."),
    ] = None
    train: str
    """Images with attributes for the probes: images as for `sdclr pretrain`."""
    test: str
    """Other images to test on."""
    out: Path | None = None
    """Folder for the results; by default results/ in the run. Without a run and --out, they are only printed."""
    config: Annotated[AttributeConfig, tyro.conf.arg(name="")] = field(default_factory=AttributeConfig)
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU if there is one."""
    workers: int | None = None
    """Processes that decode images; by default one for each core but one, at most 8."""


def attributes_command(command: Attributes, console: Console) -> None:
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
