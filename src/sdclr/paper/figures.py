"""The paper's figures from finished runs, as SVG and PNG with their data as CSV (Jiang et al., ICML 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.errors import InputError
from sdclr.longtail.splits import class_groups
from sdclr.paper.cams import Cams, draw_cams, rarest_first, tail_cams
from sdclr.paper.experiments import FigureName
from sdclr.paper.forgotten import draw_forgotten, forgotten_shares
from sdclr.paper.panels import Row, Spread, number, panels, spread_line, spread_of, write_rows
from sdclr.paper.runner import FinishedTask
from sdclr.reporting.figures import INK, MARKERS, PALETTE, layer_sparsity_lines, legend, save_figure
from sdclr.training.checkpoint import snapshot_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES = {"linear": "Linear", "few_shot": "Few-shot"}
BRANCHES = {"dense": "Dense branch", "sparse": "Pruned branch"}
OWN_NORM, SHARED_NORM, NO_RATIO = "SDCLR, own normalization", "SDCLR, shared normalization", "SimCLR"
"""Lines of Figure 3."""

Drawn: TypeAlias = "tuple[Figure, list[dict[str, Any]]]"
"""A figure and its data."""


class Where(NamedTuple):
    """Device and decoding processes of the encoders."""

    device: torch.device | str = "cpu"
    workers: int = 0


def draw(
    figure: FigureName,
    tasks: Sequence[FinishedTask],
    results: Sequence[Row],
    out: Path,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> list[Path]:
    """Draw one of the paper's figures from runs on long-tailed data, once per dataset.

    Args:
        figure: The figure.
        tasks: Finished runs, used by Figures 2, 5 and 6.
        results: Rows of the tidy table of results; Figures 3 and 4 use those of the same runs.
        out: The folder to write into.
        device: Device of the encoders, for Figures 2 and 5.
        workers: Number of decoding processes for them.

    Returns:
        The files: `FIGURE.svg`, `FIGURE.png` and `FIGURE.csv`, or `FIGURE-DATASET.*` for several datasets.

    Raises:
        InputError: The runs that the figure needs are missing.
    """
    tailed = [done for done in tasks if done.task.subset == "long_tail"]
    datasets = list(dict.fromkeys(done.task.dataset for done in tailed))
    if not datasets:
        raise InputError(f"{figure} shows runs on long-tailed data, but no such run is finished")
    files: list[Path] = []
    for dataset in datasets:
        chosen = [done for done in tailed if done.task.dataset == dataset]
        names = {done.task.name for done in chosen}
        drawn, rows = _DRAWERS[figure](chosen, [row for row in results if row["task"] in names], Where(device, workers))
        stem = figure if len(datasets) == 1 else f"{figure}-{dataset}"
        files += [*save_figure(drawn, out / stem), write_rows(out / f"{stem}.csv", rows)]
    return files


def draw_rows(figure: FigureName, rows: Sequence[Row]) -> Figure:
    """Draw one of the paper's figures again from its data, without the runs.

    Args:
        figure: The figure, except Figure 5, which shows images and cannot be drawn from numbers.
        rows: The CSV of `draw`, read by `read_rows`.

    Raises:
        InputError: The figure needs its runs, or rows are missing.
    """
    match figure:
        case "figure2":
            return draw_forgotten(rows)
        case "figure3":
            return _ratio_panels(rows, [OWN_NORM, SHARED_NORM], NO_RATIO)
        case "figure4":
            return _ratio_panels(rows, list(BRANCHES.values()), None)
        case "figure6":
            return _layer_lines(rows)
        case "figure5":
            raise InputError("figure5 shows images: sdclr reproduce figure5 draws it from its runs")


def ratio_sweep(results: Sequence[Row]) -> Drawn:
    """Figure 3: accuracy over the pruning ratio, with separate and with shared normalization of the pruned branch.

    Args:
        results: Rows of the tidy table of one dataset.

    Returns:
        Linear and few-shot accuracy (All) side by side, as mean and deviation over splits, with SimCLR as a horizontal
        line; and the data as rows.

    Raises:
        InputError: There is no result of SDCLR.
    """
    dense = [row for row in results if row["branch"] == "dense"]
    sdclr = [row for row in dense if row["method"] == "SDCLR"]
    kept: dict[str, list[Row]] = {
        OWN_NORM: [row for row in sdclr if row["independent_norm"]],
        SHARED_NORM: [row for row in sdclr if not row["independent_norm"]],
        # SimCLR has no ratio, even if its configuration has one.
        NO_RATIO: [{**row, "ratio": 0.0} for row in dense if row["method"] == "SimCLR"],
    }
    rows = [row for probe in PROBES for line, found in kept.items() for row in _over_ratios(found, probe, line)]
    return draw_rows("figure3", rows), rows


def branches(results: Sequence[Row]) -> Drawn:
    """Figure 4: accuracy of the dense and of the pruned branch over the pruning ratio.

    Args:
        results: Rows of the tidy table of one dataset.

    Returns:
        As for `ratio_sweep`.

    Raises:
        InputError: There is no result of SDCLR with separate normalization.
    """
    sdclr = [row for row in results if row["method"] == "SDCLR" and row["independent_norm"]]
    kept = {line: [row for row in sdclr if row["branch"] == branch] for branch, line in BRANCHES.items()}
    rows = [row for probe in PROBES for line, found in kept.items() for row in _over_ratios(found, probe, line)]
    return draw_rows("figure4", rows), rows


def pruned_layers(sparsity: Mapping[float, Sequence[Mapping[str, float]]]) -> Drawn:
    """Figure 6: share of removed weights in each layer, in the network's order; dashed, the ratio over all layers.

    Args:
        sparsity: For each pruning ratio, the results of `SelfCompetitor.sparsity()` of each split.

    Returns:
        The figure with means over splits, and the data as rows with deviations.

    Raises:
        InputError: There is no layer, or the layers of the networks differ.
    """
    layers = [list(found) for splits in sparsity.values() for found in splits]
    if not layers or any(names != layers[0] for names in layers):
        raise InputError("no layers in common to draw: give runs of SDCLR with one encoder")
    spreads = {
        ratio: {layer: spread_of([found[layer] for found in splits]) for layer in layers[0]}
        for ratio, splits in sorted(sparsity.items())
    }
    rows: list[dict[str, Any]] = [
        {"ratio": ratio, "position": position, "layer": layer, "removed": s.mean, **_deviation(s)}
        for ratio, found in spreads.items()
        for position, (layer, s) in enumerate(found.items())
    ]
    return _layer_lines(rows), rows


def _layer_lines(rows: Sequence[Row]) -> Figure:
    ratios = dict.fromkeys(row["ratio"] for row in rows)
    means = {
        f"{100 * ratio:g} % over all": {row["layer"]: row["removed"] for row in rows if row["ratio"] == ratio}
        for ratio in ratios
    }
    figure = layer_sparsity_lines(means)
    (axes,) = figure.axes
    for ratio, line in zip(ratios, list(axes.lines), strict=True):
        axes.axhline(100 * ratio, color=line.get_color(), linestyle="--", linewidth=1)
    return figure


def _figure2(tasks: Sequence[FinishedTask], _: Sequence[Row], where: Where) -> Drawn:
    compared = _compared(tasks)
    ratio = compared["SDCLR"][0].task.config.damage.highest
    rows: list[dict[str, Any]] = []
    for method, found in compared.items():
        # Some splits may have no snapshots. If none has any, the first run raises an error.
        for done in [one for one in found if snapshot_epochs(one.run.snapshots)] or found[:1]:
            shares = forgotten_shares(
                done.run, done.split.test, _groups(done), ratio, device=where.device, workers=where.workers
            )
            rows += [_about(done, method) | row for row in shares]
    return draw_forgotten(rows), rows


def _figure5(tasks: Sequence[FinishedTask], _: Sequence[Row], where: Where) -> Drawn:
    sheet: dict[str, Cams] = {}
    rows: list[dict[str, Any]] = []
    for method, found in _compared(tasks).items():
        for done in found:
            classes, size = rarest_first(done.split.counts, _groups(done)), done.run.config.views.image_size
            encoder = done.run.encoder().to(where.device)
            cams = tail_cams(
                encoder, done.split.few_shot, done.split.test, classes, image_size=size, workers=where.workers
            )
            sheet.setdefault(method, cams)  # images of the first split; the values next to them are over all splits
            rows += [_about(done, method) | row for row in cams.rows]
    by_method = {method: [row for row in rows if row["method"] == method] for method in sheet}
    return draw_cams(sheet, rows=by_method), rows


def _figure6(tasks: Sequence[FinishedTask], _: Sequence[Row], __: Where) -> Drawn:
    sparsity: dict[float, list[dict[str, float]]] = {}
    for done in tasks:
        damage = done.task.config.damage
        if done.task.method == "SDCLR" and damage.independent_norm:
            competitor = done.run.objective().competitor
            sparsity.setdefault(damage.highest, []).append({} if competitor is None else competitor.sparsity())
    return pruned_layers(sparsity)


def _compared(tasks: Sequence[FinishedTask]) -> dict[str, list[FinishedTask]]:
    """The runs of SimCLR, and those of SDCLR with the ratio of its first run, sorted by split."""
    found = {
        method: sorted((done for done in tasks if done.task.method == method), key=lambda done: done.task.split)
        for method in ("SimCLR", "SDCLR")
    }
    absent = [method for method, runs in found.items() if not runs]
    if absent:
        raise InputError(f"the figure compares SimCLR with SDCLR, but no run of {' and '.join(absent)} is finished")
    damage = found["SDCLR"][0].task.config.damage
    found["SDCLR"] = [done for done in found["SDCLR"] if done.task.config.damage == damage]
    return found


def _groups(done: FinishedTask) -> dict[str, NDArray[np.int64]]:
    return class_groups(done.split.counts, rule=done.split.rule)


def _about(done: FinishedTask, method: str) -> dict[str, Any]:
    return {"dataset": done.task.dataset, "split": done.task.split, "method": method}


def _over_ratios(results: Sequence[Row], probe: str, label: str) -> list[dict[str, Any]]:
    """Mean accuracy at each ratio; missing results are left out."""
    chosen = [row for row in results if row["probe"] == probe and not math.isnan(number(row["all"]))]
    by_ratio: dict[float, list[float]] = {}
    for row in chosen:
        by_ratio.setdefault(number(row["ratio"]), []).append(number(row["all"]))
    return [
        {"probe": probe, "line": label, "ratio": ratio, "all": spread.mean, **_deviation(spread)}
        for ratio, spread in sorted((ratio, spread_of(values)) for ratio, values in by_ratio.items())
    ]


def _deviation(spread: Spread) -> dict[str, Any]:
    return {"deviation": spread.deviation, "splits": spread.splits}


def _ratio_panels(rows: Sequence[Row], lines: Sequence[str], level: str | None) -> Figure:
    """One panel per probe: lines over the ratio, and a horizontal line for the method without a ratio."""
    if not any(row["line"] in lines for row in rows):
        raise InputError(f"no accuracy of {' or '.join(lines)} to draw: no such run of SDCLR is finished")
    with panels(list(PROBES.values()), one_scale=False) as (figure, (axes,)):
        handles: dict[str, Any] = {}
        for panel, probe in zip(axes, PROBES, strict=True):
            panel.set_xlabel("Pruning ratio")
            here = [row for row in rows if row["probe"] == probe]
            for rank, line in enumerate(lines):
                points = [row for row in here if row["line"] == line]
                spreads = [Spread(row["all"], row["deviation"], row["splits"]) for row in points]
                places = [row["ratio"] for row in points]
                if points:
                    color, marker = PALETTE[rank], MARKERS[rank]
                    handles[line] = spread_line(panel, places, spreads, color=color, marker=marker)
            for row in here:
                if row["line"] == level:
                    handles[row["line"]] = panel.axhline(row["all"], color=INK, linestyle="--", linewidth=1.2)
                    if not math.isnan(row["deviation"]):
                        low, high = row["all"] - row["deviation"], row["all"] + row["deviation"]
                        panel.axhspan(low, high, color=INK, alpha=0.12, linewidth=0)
        axes[0].set_ylabel("Accuracy / %")
        legend(figure, list(handles.values()), list(handles))
    return figure


_DRAWERS: dict[FigureName, Callable[[Sequence[FinishedTask], Sequence[Row], Where], Drawn]] = {
    "figure2": _figure2,
    "figure3": lambda _, results, __: ratio_sweep(results),
    "figure4": lambda _, results, __: branches(results),
    "figure5": _figure5,
    "figure6": _figure6,
}
