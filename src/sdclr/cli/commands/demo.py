"""Options of `sdclr demo`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Find the rare kinds among handwritten digits that come with scikit-learn, and show them on a page.

    Takes half a minute on two cores. With --train it compares SimCLR and SDCLR on a long tail of digits instead: this
    takes two to three minutes, prints two tables and writes RUN/report.html.
    """

    run: Path = Path("runs/demo")
    """Folder for the page, or for the runs and the report."""
    train: bool = False
    """Train and compare SimCLR and SDCLR."""
    splits: int = 5
    """Class orders to average over, with --train."""
