"""Options of `sdclr evaluate-attributes`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro

from sdclr.cli.options import Device, EncoderName, LabeledImages, Workers
from sdclr.evaluation.config import AttributeConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateAttributes:
    """Measure how well, and how evenly, an encoder predicts attributes: several labels per image.

    Trains a linear layer on the frozen features for each attribute and reports average precision: for attributes of
    many, some and few images, over all, and the spread between the three groups (Std). Attributes are in a column
    `attributes` (`red;striped`) of a manifest or Parquet file, or in columns `attr:NAME` of 0 and 1.

    For example:
        sdclr evaluate-attributes --encoder runs/a --train labeled.csv --test test.csv
    """

    encoder: EncoderName = None
    train: LabeledImages
    """Images with attributes for the probes: images as for `sdclr pretrain`."""
    test: LabeledImages
    """Other images to test on."""
    out: Path | None = None
    """Folder for the results; by default results/ in the run. Without a run and --out, they are only printed."""
    config: Annotated[AttributeConfig, tyro.conf.arg(name="")] = field(default_factory=AttributeConfig)
    device: Device = "auto"
    workers: Workers = None


SHORT: Final = {
    "encoder and images": (
        "--encoder",
        "--train",
        "--test",
        "--branch",
    ),
    "results": (
        "--out",
        "--groups",
    ),
    "protocol": (
        "--few-shot",
        "--draws",
        "--seed",
    ),
    "machine": (
        "--device",
        "--workers",
        "--batch-size",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""
