"""Options of `sdclr evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro

from sdclr.choices import Amp
from sdclr.cli.options import Device, EncoderName, LabeledImages, Workers
from sdclr.evaluation.config import EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure how well, and how evenly, an encoder separates classes, with labeled images.

    Linear probe, few-shot probe and kNN: accuracy for frequent (Many), middle (Medium) and rare (Few) classes, over
    all, and the spread between the three groups (Std).

    For example:
        sdclr evaluate --train ./labeled/train --test ./labeled/test
        sdclr evaluate --encoder runs/a --train ./cifar10:train --test ./cifar10:test --branch sparse
    """

    encoder: EncoderName = None
    train: LabeledImages
    """Labeled images for the probes, given as for `sdclr mine`; balanced if possible."""
    test: LabeledImages
    """Labeled images of the same classes to test on."""
    out: Path | None = None
    """Folder for the results as JSON; by default results/ in the run. Without a run and --out, they are only
    printed."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    amp: Amp = "auto"
    """Mixed precision of the encoder; auto uses bf16 if it is clearly faster: as timed on a CPU, on GPUs from Ampere
    on."""
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
        "--shots",
        "--draws",
        "--k",
        "--augment",
        "--seed",
    ),
    "machine": (
        "--amp",
        "--device",
        "--workers",
        "--batch-size",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""
