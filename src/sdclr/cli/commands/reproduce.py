"""Options of `sdclr reproduce`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from sdclr.choices import Amp
from sdclr.cli.options import Device
from sdclr.errors import InputError
from sdclr.paper.experiments import EXPERIMENTS, ExperimentName
from sdclr.paper.tasks import Scale
from sdclr.recipes import HeadKind
from sdclr.time_budget import check_budget

What = Annotated[
    ExperimentName | Literal["all"],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="WHAT", help=f"{', '.join(EXPERIMENTS)}, or all of them."),
]


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Reproduce a table or figure of the paper, and print the results next to the paper's numbers.

    Trains and evaluates the missing runs, and writes tables, figures and tidy results. A stopped command resumes when
    it is run again. Finished runs are skipped, and runs that several tables share are trained once.

    For example:
        sdclr reproduce table4 --data ./data --dry-run
        sdclr reproduce table4 --data ./data --jobs 2 --minutes 60
        sdclr reproduce all --data ./data --lists ./splits --scale paper
    """

    what: What
    data: Path
    """A folder with one or more of the folders cifar10, cifar100, imagenet and imagenet100, or one of these: CIFAR in
    torchvision's format or as Parquet files, ImageNet with train and val folders of classes."""
    lists: Path | None = None
    """A folder of the published lists, for the first split; by default all splits are drawn."""
    scale: Scale = "cpu"
    """cpu: small experiments, which show only a direction; paper: the paper's setting."""
    splits: int | None = None
    """Subsets of CIFAR to average over; by default 3 at the small scale and 5 at the paper's."""
    head: HeadKind = "matched"
    """Projection heads: equal ones, or those of the reference implementation, which gives SDCLR a deeper one."""
    epochs: int | None = None
    """Epochs of every run instead of those of the scale, for a trial."""
    minutes: float | None = None
    """Stop after this time in minutes, save the state, and write tables and figures of the finished runs. Run the same
    command to resume. The runs are not shortened, because their length is part of the experiment."""
    jobs: int = 1
    """Runs at the same time, each in its own process."""
    folder: Path = Path("runs/paper")
    """Folder of the runs."""
    out: Path | None = None
    """Folder of tables, figures and tidy results; by default results/ in the folder of the runs."""
    dry_run: bool = False
    """List the runs with their state and cost, and do nothing."""
    device: Device = "auto"
    workers: int | None = None
    """Processes that decode large images, for each run."""
    amp: Amp = "auto"
    """Mixed precision; auto uses bf16 if it is clearly faster: as timed on a CPU, on GPUs from Ampere on."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InputError(f"--jobs is 1 or more, not {self.jobs}")
        if self.minutes is not None:
            check_budget(self.minutes)


SHORT: Final = {
    "what": (
        "WHAT",
        "--data",
        "--scale",
        "--dry-run",
    ),
    "length": (
        "--minutes",
        "--splits",
        "--epochs",
        "--jobs",
    ),
    "results": (
        "--folder",
        "--out",
    ),
    "machine": (
        "--device",
        "--workers",
        "--amp",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""
