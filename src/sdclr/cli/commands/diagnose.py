"""Options of `sdclr diagnose`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.cli.options import Device, EncoderName, Images, Workers
from sdclr.mining.config import DiagnoseConfig


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Describe a collection without labels: its kinds, how long-tailed it seems, near-duplicates.

    For example:
        sdclr diagnose ./images
        sdclr diagnose ./images --encoder runs/a
    """

    images: Images
    encoder: EncoderName = None
    out: Path | None = None
    """JSON file to write; by default results/diagnosis.json in the run, or mined/NAME/diagnosis.json."""
    folder: Path | None = None
    """Folder of an earlier `sdclr mine`, whose features are used again; by default that of `sdclr mine`."""
    config: Annotated[DiagnoseConfig, tyro.conf.arg(name="")] = field(default_factory=DiagnoseConfig)
    device: Device = "auto"
    workers: Workers = None
