"""Options of `sdclr bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdclr.choices import Amp
from sdclr.cli.options import Device
from sdclr.errors import InputError
from sdclr.longtail.config import DatasetName
from sdclr.paper.config import Ratio, SortKey
from sdclr.paper.tasks import Scale
from sdclr.training.config import DamageKind, FrameworkName


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Train frameworks with and without damage and rebalancers on the same splits, and print a leaderboard.

    A cell of the matrix is framework+damage, then any rebalancers, then settings as @NAME=VALUE; +oracle draws every
    class equally often by its labels, as an upper bound. Instead of --matrix you can give axes: all valid combinations
    are trained. A stopped command resumes when it is run again and skips finished runs. Every method is evaluated by
    linear probe, few-shot probe and kNN on the balanced test set.

    For example:
        sdclr bench --data ./data --matrix simclr+none simclr+prune simclr+prune+temperature byol+none byol+prune
        sdclr bench --data ./data --matrix simclr+none simclr+prune@damage.ratio=0.3@epochs=80 --splits 2
        sdclr bench --data ./data --frameworks simclr moco byol --damage none prune --rebalance none temperature,focal
    """

    data: Path
    """A folder with one or more of the folders cifar10, cifar100, imagenet and imagenet100, or one of these: CIFAR in
    torchvision's format or as Parquet files, ImageNet with train and val folders of classes."""
    matrix: tuple[str, ...] = ()
    """Cells, such as simclr+none or byol+prune+temperature@damage.ratio=0.7@epochs=80; the first is the baseline."""
    frameworks: tuple[FrameworkName, ...] = ()
    """Without a matrix: the frameworks; by default SimCLR."""
    damage: tuple[DamageKind, ...] = ()
    """Without a matrix: the damage of the second branch; by default none, and prune."""
    rebalance: tuple[str, ...] = ()
    """Without a matrix: rebalancers, combinations joined by commas, or none; by default none."""
    widths: tuple[int, ...] = ()
    """Widths of the encoder, each for every cell; by default the scale's."""
    ratio: Ratio | None = None
    """Pruning ratio of every cell with damage that does not set its own; by default the scale's."""
    dataset: DatasetName = "cifar10_lt"
    """The long-tailed data set."""
    lists: Path | None = None
    """A folder of the published lists, for the first split; by default all splits are drawn."""
    scale: Scale = "cpu"
    """cpu: small experiments, which show only a direction; paper: the paper's setting."""
    splits: int | None = None
    """Subsets to average over; by default 3 at the small scale and 5 at the paper's."""
    epochs: int | None = None
    """Epochs of every run that does not set its own, instead of those of the scale."""
    baseline: str | None = None
    """The row that others are compared with: a cell, or a name of the leaderboard; by default the first cell."""
    sort: SortKey = "linear.all"
    """Measure to sort the leaderboard by, best first."""
    jobs: int = 1
    """Runs at the same time, each in its own process."""
    folder: Path = Path("runs/bench")
    """Folder of the runs; finished runs of `sdclr reproduce` in it are reused."""
    out: Path | None = None
    """Folder of the leaderboard and of tidy results; by default results/ in the folder of the runs."""
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
        if self.matrix and (self.frameworks or self.damage or self.rebalance):
            raise InputError("--matrix names whole cells: leave it out, or --frameworks, --damage and --rebalance")


SHORT: Final = {
    "what": (
        "--data",
        "--dataset",
        "--matrix",
        "--scale",
        "--dry-run",
    ),
    "axes instead of --matrix": (
        "--frameworks",
        "--damage",
        "--rebalance",
    ),
    "length": (
        "--splits",
        "--epochs",
        "--jobs",
    ),
    "results": (
        "--folder",
        "--out",
        "--sort",
    ),
    "machine": (
        "--device",
        "--workers",
        "--amp",
    ),
}
"""The options that most people set, which `--help` shows; `--help-all` shows all."""
