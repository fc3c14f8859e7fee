"""Options of `sdclr finetune`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from sdclr.cli.options import Device, LabeledImages
from sdclr.data.stored import CACHE_GB
from sdclr.downstream.config import FinetuneConfig
from sdclr.encoders import DEFAULT as DEFAULT_ENCODER
from sdclr.encoders.config import GRAMMAR
from sdclr.longtail.config import SubsetConfig


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a classifier on labeled, long-tailed images, from an encoder or from scratch, and test it.

    Methods: balanced softmax (the default), plain cross-entropy, LDAM with deferred re-weighting, cRT, tau-norm, and
    RIDE (several experts and a router, for ResNets). A stopped command resumes. Results go to OUT/result.json.

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
    train: LabeledImages
    """Labeled images to train on: images as for `sdclr pretrain`."""
    test: LabeledImages
    """Labeled images of the same classes to test on."""
    out: Path | None = None
    """Folder to write into; by default RUN/finetune/METHOD for a run, or runs/NAME-METHOD with the name of
    the training images."""
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(default_factory=FinetuneConfig)
    minutes: float | None = None
    """Time budget in minutes, including the test: measures the speed and chooses the numbers of epochs, instead of
    --epochs and --second-epochs."""
    device: Device = "auto"
    workers: int | None = None
    """Processes that decode large images; by default as in `sdclr pretrain`."""
    cache_gb: float = CACHE_GB
    """Disk space in GB for decoded large images, as for `sdclr pretrain`; 0 stores none."""
    amp: Literal["auto", "none", "bf16"] = "auto"
    """Mixed precision; auto uses bf16 if it is clearly faster: as timed on a CPU, on GPUs from Ampere on."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints, at most; 0 saves at every step."""


SHORT: Final = {
    "encoder and images": (
        "--start",
        "--train",
        "--test",
        "--subset.kind",
        "--image-size",
    ),
    "method": (
        "--method",
        "--minutes",
        "--epochs",
        "--batch-size",
        "--lr",
        "--weight-decay",
        "--experts",
        "--seed",
    ),
    "results": (
        "--out",
        "--groups",
    ),
    "machine": (
        "--device",
        "--workers",
        "--amp",
        "--checkpoint-minutes",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""
