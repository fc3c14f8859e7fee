"""Options of `sdclr select`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdclr.cli.options import Device, MinedEncoderName, MinedImages, Workers
from sdclr.mining.config import DEFAULT, Method


@dataclass(frozen=True, kw_only=True)
class Select:
    """Choose which images to label next.

    Prints their ids in the order of choice, or writes them to a CSV file, and says how the budget was spent.

    For example:
        sdclr select ./images --budget 500 --out label_next.csv
        sdclr select ./images --budget 100 --labeled done.txt --out label_next.csv
        sdclr select ./images --encoder runs/a --budget 100
    """

    images: MinedImages
    encoder: MinedEncoderName = None
    budget: int | Literal["all"]
    """Number of images to choose. all puts all unlabeled images in order."""
    method: Method = DEFAULT
    """How to choose; docs/results/selection.md compares the methods."""
    labeled: tuple[Path, ...] = ()
    """Files with the ids of images that have labels already, one per line, or CSV files with a column id (if there is
    also a column label, only rows with a label count). These images are not chosen, and images like them are
    avoided."""
    out: Path | None = None
    """CSV file to write: order, id, score, percentile, kind. By default ids go to standard output."""
    folder: Path | None = None
    """Folder of the scores, which are computed if they are not there; by default as for `sdclr mine`."""
    seed: int = 0
    """Seed of the random choices of a method."""
    device: Device = "auto"
    workers: Workers = None
