"""Options of `sdclr report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a report on one run, or a comparison of several: curves, balance, pruning by layer, pictures.

    For example:
        sdclr report runs/a
        sdclr report runs/a runs/b --source ./images --out report.html --figures figures/
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help="Folders of runs.")
    ]
    source: str | None = None
    """The images, to show examples and views."""
    out: Path | None = None
    """The HTML file; by default report.html in the run, or in the current folder if there are several."""
    figures: Path | None = None
    """A folder for the figures as SVG and PNG files."""
    results: Path | None = None
    """Results of `sdclr reproduce` to show as tables."""
