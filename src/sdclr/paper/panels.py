"""Shared parts of the paper's figures: panels, means over splits, and data as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdclr.errors import InputError
from sdclr.files import write_atomically
from sdclr.reporting.figures import INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


class Spread(NamedTuple):
    """Mean and deviation over several splits."""

    mean: float
    deviation: float
    """Sample standard deviation (`ddof=1`); nan for a single split."""
    splits: int


@contextmanager
def panels(
    titles: Sequence[str],
    *,
    rows: int = 1,
    width: float = 3.4,
    height: float = 3.1,
    plots: bool = True,
    one_scale: bool = True,
) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """A figure in the style of the reports, with panels in rows and columns.

    Args:
        titles: One title per column.
        rows: Number of panels below each title.
        width: Width of a panel, in inches.
        height: Height of the figure, in inches.
        plots: Whether panels are plots with a shared horizontal axis; otherwise they are pictures without axes.
        one_scale: Whether plots also share the vertical axis.

    Yields:
        The figure, and its panels by row and column.
    """
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(width * len(titles), height), layout="constrained")
        axes = figure.subplots(rows, len(titles), sharex=plots, sharey=plots and one_scale, squeeze=False)
        for panel, title in zip(axes[0], titles, strict=True):
            panel.set_title(title, fontsize=10 if plots else 8)
        for panel in axes.flat:
            if plots:
                panel.grid(axis="y", color=INK, alpha=0.25, linewidth=0.8)
            else:
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
        yield figure, axes.tolist()


def spread_line(axes: Axes, places: Sequence[float], spreads: Sequence[Spread], *, color: str, marker: str) -> Any:
    """A line through means, with a band of one deviation above and below for several splits."""
    means = np.array([spread.mean for spread in spreads])
    deviations = np.array([spread.deviation for spread in spreads])
    (line,) = axes.plot(places, means, color=color, marker=marker, markersize=4, linewidth=1.6)
    if not np.isnan(deviations).all():
        low, high = means - deviations, means + deviations
        axes.fill_between(places, low, high, color=color, alpha=0.18, linewidth=0)
    return line


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and deviation of the known values."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not known.size:
        return Spread(math.nan, math.nan, 0)
    return Spread(float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else math.nan, int(known.size))


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV; unknown values are empty.

    Raises:
        InputError: There is no row.
    """
    if not rows:
        raise InputError(f"{path.name}: there is nothing to write")
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    # File names that are not UTF-8 contain lone surrogates, which become the original bytes.
    write_atomically(path, buffer.getvalue().encode("utf-8", "surrogateescape"))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read rows of `write_rows`: numbers as float, empty cells as nan, everything else as text."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [{key: _cell(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _cell(text: str) -> float | str:
    try:
        return number(text)
    except ValueError:
        return text


def number(value: object) -> float:
    """A cell of a table as a number; nan if it is empty."""
    return math.nan if value is None or value == "" else float(str(value))


def _plain(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
