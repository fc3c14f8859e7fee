"""Figures of a report: readable on light and dark pages, with equal bytes for equal data."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdclr.errors import InputError
from sdclr.evaluation.balance import GROUPS, Balance, summarize
from sdclr.files import write_atomically
from sdclr.training.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#7b7b7b"
"""Color of text and axes: a gray with equal contrast, about 4.2 : 1, to white and near-black pages."""

PALETTE: Final = ("#1f83c4", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""The Okabe-Ito palette, safe for color blindness, with a lighter blue and without black and yellow, so that each color
is visible on light and dark pages."""

_HATCHES: Final = ("", "///", "...", "xxx")
_DASHES: Final = ("-", "--", ":", "-.")
MARKERS: Final = ("o", "^", "s", "D")
_SHADES: Final = (1.0, 0.72, 0.5)  # of Many, Medium and Few
_NAMED_CLASSES: Final = 40  # names of more classes would overlap
_COUNTED_CLASSES: Final = 20
_LONGEST_NAME: Final = 28

_STYLE: Final[Any] = {  # the stubs of matplotlib's versions disagree on its type
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    # Matplotlib includes the first font, so the layout is equal on every machine; the others are for SVG viewers.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a class name may contain "$"
    "svg.fonttype": "none",
    "svg.hashsalt": "sdclr",
}


def loss_curves(runs: Mapping[str, Sequence[Run]], *, order: Sequence[str] = ()) -> Figure | None:
    """Training loss over epochs.

    Args:
        runs: One or several runs (splits) of each method, which share a color.
        order: Methods in the order of the colors, if it is not that of `runs`.

    Returns:
        The figure; None if no loss is logged yet.
    """
    curves = {label: [curve for run in found if len(curve := loss_curve(run))] for label, found in runs.items()}
    curves = {label: found for label, found in curves.items() if found}
    if not curves:
        return None
    styles = _styles([*order, *runs])
    with drawing():
        figure, axes = _axes(6.4, 3.2)
        handles = []
        for label, found in curves.items():
            color, rank = styles[label]
            lines = [
                axes.plot(*curve.T, color=color, linestyle=_DASHES[rank % len(_DASHES)], linewidth=1.6)[0]
                for curve in found
            ]
            for line in lines:
                line.set_marker("." if np.size(line.get_xdata()) == 1 else "")  # a single point draws no line
            handles.append(lines[0])
        axes.set(xlabel="Epoch", ylabel="Loss")
        axes.set_xlim(left=0)
        if len(curves) > 1:
            legend(figure, handles, list(curves))
    return figure


def loss_curve(run: Run) -> NDArray[np.float64]:
    """(epochs, loss) of each logged row of a run, `(N, 2)`."""
    rows = [(row["step"], row["loss"]) for row in run.metrics() if "loss" in row]
    if not rows:
        return np.empty((0, 2))
    source = run.source
    steps_per_epoch = (source["images"] - source.get("bad_images", 0)) // run.config.batch_size
    return np.array(rows, dtype=np.float64) / (steps_per_epoch, 1)


def group_bars(results: Mapping[str, Sequence[Balance]], *, order: Sequence[str] = ()) -> Figure:
    """Accuracy by group of classes, methods side by side, with the standard deviation over several splits.

    Args:
        results: The splits of each method, in percent.
        order: Methods in the order of the colors, if it is not that of `results`.

    Returns:
        The figure; groups without values in all methods are left out.

    Raises:
        InputError: There is no method, or a method has no splits.
    """
    from matplotlib.patheffects import withStroke

    if not results:
        raise InputError("no results to draw: give the balance of at least one method")
    summaries = [summarize(splits) for splits in results.values()]
    means = {field: np.array([getattr(s.mean, field) for s in summaries]) for field in (*GROUPS, "all")}
    fields = [field for field, values in means.items() if not np.isnan(values).all()]
    styles = _styles([*order, *results])
    width = 0.8 / len(summaries)
    with drawing():
        figure, axes = _axes(5.2, 3.2)
        handles = []
        for place, (label, summary) in enumerate(zip(results, summaries, strict=True)):
            color, rank = styles[label]
            bars = axes.bar(
                np.arange(len(fields)) + (place - (len(summaries) - 1) / 2) * width,
                [getattr(summary.mean, field) for field in fields],
                0.92 * width,
                yerr=[getattr(summary.std, field) for field in fields],
                color=color,
                hatch=_HATCHES[rank % len(_HATCHES)],
                error_kw={
                    "ecolor": "black",
                    "elinewidth": 1.5,
                    # Black with a white outline is visible on every bar and page.
                    "path_effects": [withStroke(linewidth=3.5, foreground="white")],
                },
            )
            handles.append(bars)
        axes.set_xticks(np.arange(len(fields)), [field.capitalize() for field in fields])
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("Accuracy / %")
        legend(figure, handles, list(results))
    return figure


def class_accuracy(classes: Mapping[str, ArrayLike], *, order: Sequence[str] = ()) -> Figure:
    """Accuracy of each class over its number of training images, with a straight line fitted per method.

    Args:
        classes: For each method, (training images, accuracy in percent) of every class of every split, `(M, 2)`.
            Classes without images (the axis is logarithmic) or without accuracy are left out.
        order: Methods in the order of the colors, if it is not that of `classes`.

    Returns:
        The figure.
    """
    styles = _styles([*order, *classes])
    with drawing():
        figure, axes = _axes(6.4, 3.2)
        handles = []
        for label, points in classes.items():
            color, rank = styles[label]
            values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
            images, accuracy = values[(values[:, 0] > 0) & ~np.isnan(values[:, 1])].T
            handles.append(axes.scatter(images, accuracy, s=22, color=color, marker=MARKERS[rank % len(MARKERS)]))
            if len(np.unique(images)) > 2:
                slope, height = np.polyfit(np.log(images), accuracy, 1)
                ends = np.array([images.min(), images.max()])
                axes.plot(ends, height + slope * np.log(ends), color=color, linewidth=1, linestyle="--")
        axes.set(xscale="log", xlabel="Training images of the class", ylabel="Accuracy / %")
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
        legend(figure, handles, list(classes))
    return figure


def layer_sparsity_bars(sparsity: Mapping[str, float]) -> Figure:
    """Share of removed weights in each layer, in the network's order (Jiang et al., ICML 2021, Fig. 6).

    Args:
        sparsity: The result of `SelfCompetitor.sparsity()`: shares in [0, 1] by weight name.

    Returns:
        The figure.

    Raises:
        InputError: There is no layer.
    """
    if not sparsity:
        raise InputError("no layers to draw: give the sparsity of at least one")
    names = _short_names(list(sparsity))
    with drawing():
        figure, axes = _axes(min(11.0, max(6.4, 0.26 * len(names) + 1)), 3.4)
        axes.bar(np.arange(len(names)), [100 * share for share in sparsity.values()], 0.8, color=PALETTE[0])
        _name_bars(axes, names)
        axes.set(ylabel="Removed weights / %", ylim=(0, 100))
    return figure


def layer_sparsity_lines(sparsity: Mapping[str, Mapping[str, float]], *, order: Sequence[str] = ()) -> Figure:
    """Share of removed weights in each layer, several networks of the same layers side by side.

    Args:
        sparsity: For each method, shares in [0, 1] by weight name.
        order: Methods in the order of the colors, if it is not that of `sparsity`.

    Returns:
        The figure.

    Raises:
        InputError: There is no layer, or the layers differ.
    """
    layers = list(next(iter(sparsity.values()), {}))
    if not layers or any(list(shares) != layers for shares in sparsity.values()):
        raise InputError("no layers in common to draw: give the sparsity of the same layers for each method")
    styles = _styles([*order, *sparsity])
    with drawing():
        figure, axes = _axes(min(11.0, max(6.4, 0.26 * len(layers) + 1)), 3.4)
        handles = []
        for label, shares in sparsity.items():
            color, rank = styles[label]
            dashes = _DASHES[rank % len(_DASHES)]
            heights = [100 * share for share in shares.values()]
            handles += axes.plot(heights, color=color, linestyle=dashes, linewidth=1.2, marker="o", markersize=4)
        _name_bars(axes, _short_names(layers))
        axes.set(ylabel="Removed weights / %", ylim=(0, 100))
        legend(figure, handles, list(sparsity))
    return figure


def class_profile(
    counts: ArrayLike, classes: Sequence[str] = (), *, groups: Mapping[str, ArrayLike] | None = None
) -> Figure:
    """Number of images per class, from the most to the least frequent class.

    Args:
        counts: Number of images per class, `(K,)`.
        classes: Names of the K classes; numbers by default.
        groups: Class ids of Many, Medium and Few, to color the bars.

    Returns:
        The figure.

    Raises:
        InputError: There is no class, or the numbers of names and counts differ.
    """
    values = np.asarray(counts, dtype=np.int64)
    if values.ndim != 1 or not values.size:
        raise InputError(f"class counts of shape {values.shape} cannot be drawn: give one number for each class")
    if len(classes) not in {0, len(values)}:
        raise InputError(f"there are {len(classes)} class names for {len(values)} counts: give one for each")
    order = np.argsort(-values, kind="stable")
    member = np.zeros(len(values), dtype=np.int64)
    for number, name in enumerate(GROUPS):
        member[np.asarray((groups or {}).get(name, ()), dtype=np.int64)] = number
    named = len(values) <= _NAMED_CLASSES
    with drawing():
        figure, axes = _axes(min(9.0, max(6.4, 0.3 * len(values) + 1)), 3.2)
        bars = axes.bar(
            np.arange(len(values)),
            values[order],
            0.8 if named else 1.0,
            color=[(PALETTE[0], _SHADES[number]) for number in member[order].tolist()],
        )
        if len(values) <= _COUNTED_CLASSES:
            axes.bar_label(bars, fontsize=8, color=INK, padding=1)
        if named:
            _name_bars(axes, [classes[k] if classes else str(k) for k in order.tolist()])
        else:
            axes.set_xlabel("Rank of the class by size")
        axes.set_ylabel("Images")
        if groups:
            present = [number for number in range(len(GROUPS)) if (member == number).any()]
            firsts = [bars.patches[int(np.flatnonzero(member[order] == number)[0])] for number in present]
            legend(figure, firsts, [GROUPS[number].capitalize() for number in present])
    return figure


def save_figure(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write a figure as SVG and PNG without a background. Equal figures give equal bytes.

    Args:
        figure: The figure.
        path: Path without a suffix; the folder is created if missing.

    Returns:
        The two files.
    """
    svg, png = (Path(f"{path}.{suffix}") for suffix in ("svg", "png"))
    write_atomically(svg, _encoded(figure, "svg"))
    write_atomically(png, _encoded(figure, "png"))
    return svg, png


def inline_svg(figure: Figure, prefix: str) -> str:
    """A figure as an `<svg>` element for an HTML page. Text and axes have the page's text color.

    Args:
        figure: The figure.
        prefix: Prefix of every id, to make ids unique on the page.

    Returns:
        The element.
    """
    text = _encoded(figure, "svg").decode()

    def rewritten(tag: re.Match[str]) -> str:
        # Only tags are changed. Text between them has `<` and `>` escaped.
        return re.sub(r'((?: id="|href="#|url\(#))', rf"\g<1>{prefix}-", tag.group()).replace(INK, "currentColor")

    return re.sub(r"<[^>]+>", rewritten, text[text.index("<svg") :])


@contextmanager
def drawing() -> Iterator[None]:
    """Set our style, and ignore warnings about missing glyphs: an SVG viewer uses another font."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _encoded(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    absent = {"svg": ("Date", "Creator", "Format", "Type"), "png": ("Software",)}[kind]  # dates, versions
    with drawing(), io.BytesIO() as buffer:
        if figure.get_constrained_layout():
            # Compute the layout once, since each drawing would move the axes slightly.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(buffer, format=kind, dpi=160, metadata=dict.fromkeys(absent))
        return buffer.getvalue()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with faint horizontal lines; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.8)
    return figure, axes


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add one legend above all axes."""
    # Matplotlib leaves names that start with an underscore out of the legend.
    names = [f"\u200b{name}" if name.startswith("_") else name for name in map(_shown, labels)]
    figure.legend(
        handles, names, loc="outside upper left", ncols=min(4, len(names)), handlelength=1.4, columnspacing=1.4
    )


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    level, upright = sum(max(len(name), 4) for name in names) < 60, len(names) > 20
    axes.set_xticks(
        np.arange(len(names)),
        [_shown(name) for name in names],
        rotation=90 if upright else 0 if level else 40,
        rotation_mode="anchor",
        ha="center" if level and not upright else "right",
        va="center" if upright else "top",
        fontsize=7 if len(names) > 30 else 8,
    )
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)


def _shown(name: str) -> str:
    """A name for a figure: of limited length, without characters that are invalid in XML."""
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _short_names(names: Sequence[str]) -> list[str]:
    """Layer names without `.weight` and without the modules that all names share."""
    parts = [name.removesuffix(".weight").split(".") for name in names]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [".".join(part[shared:]) for part in parts]


def _styles(labels: Sequence[str]) -> dict[str, tuple[str, int]]:
    """A color for each label, and how many times the palette has repeated before it."""
    return {label: (PALETTE[n % len(PALETTE)], n // len(PALETTE)) for n, label in enumerate(dict.fromkeys(labels))}
