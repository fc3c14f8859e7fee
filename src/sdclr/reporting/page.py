"""Write the report: one HTML file that opens from disk, prints well and loads nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdclr.data.intensities import with_intensities
from sdclr.data.scan import read_bad_images
from sdclr.data.sources import ImageSource, Source, open_source
from sdclr.errors import InputError
from sdclr.evaluation.evaluate import Result
from sdclr.files import write_atomically
from sdclr.progress import stage
from sdclr.reporting.comparison import (
    diagnosis,
    differing_settings,
    name_runs,
    overview,
    settings_as_json,
    start_weights,
)
from sdclr.reporting.elements import Elements, Plot, template
from sdclr.reporting.figures import (
    class_accuracy,
    class_profile,
    group_bars,
    layer_sparsity_bars,
    layer_sparsity_lines,
    loss_curves,
)
from sdclr.reporting.mined import mined_sheets
from sdclr.reporting.sheets import class_sheet, example_sheet, view_sheet
from sdclr.reporting.tables import ScoreName, Table, balance_table, balances
from sdclr.training.run import Run, read_evaluation
from sdclr.version import __version__

Json = Mapping[str, Any]
Evaluation = Result | Json

_CLASSES_SHOWN = 20
_BAD_IMAGES_SHOWN = 50


@stage("writing the report")
def write_report(
    path: str | Path,
    *,
    title: str,
    runs: Mapping[str, Run | Sequence[Run]] | None = None,
    results: Mapping[str, Sequence[Evaluation]] | None = None,
    source: Source | None = None,
    tables: Sequence[Table] = (),
    commands: Sequence[str] = (),
    summary: str = "",
    figures: str | Path | None = None,
) -> Path:
    """Write a report on one run or on a comparison of several. Unavailable sections are left out.

    Args:
        path: The HTML file; its folder is created if missing.
        title: The heading.
        runs: The runs of each method: one, or one per split.
        results: The evaluations of each method, one per split: results, or the JSON that `evaluate` wrote.
        source: The collection (of several, the one to show); labels are not needed.
        tables: Tables to show instead of those from `results`.
        commands: Commands that reproduce the report.
        summary: The author's summary.
        figures: A folder for every figure as SVG and PNG, and for the sheets of mined images.

    Returns:
        Path of the file.

    Raises:
        InputError: An entry of `results` is not an evaluation, the path is a folder or `figures` a file, or a run's
            output of `sdclr mine` or `sdclr diagnose` cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the report a file name, such as {path / 'report.html'}")
    several = {
        label: [found] if isinstance(found, Run) else list(found) for label, found in (runs or {}).items() if found
    }
    plain = _plain(results or {})
    order = list(dict.fromkeys([*plain, *several]))
    first = next((run for found in several.values() for run in found), None)
    collection = _collection(source, first)
    elements = Elements(None if figures is None else Path(figures))
    text = template("report.html.j2").render(
        title=title,
        summary=summary,
        evaluated=bool(plain),
        several=len(several) > 1,
        facts=_facts(collection, several, plain),
        compared=[table for table in (overview(several), differing_settings(several)) if table],
        tables=list(tables) or _tables(plain),
        bars=_bars(plain, order, elements),
        classes=_classes(plain, order, elements),
        diagnosis=diagnosis(several),
        mined=mined_sheets(several, source, elements),
        curves=_curves(several, order, elements),
        profile=_profile(collection, plain, elements),
        **_pictures(source, first, elements),
        pruned=_pruned(several, order, elements),
        settings=settings_as_json(several),
        starts=start_weights(several),
        commands=list(commands),
        bad=_bad_images(several),
        bad_shown=_BAD_IMAGES_SHOWN,
        version=__version__,
    )
    # File names that are not UTF-8 contain lone surrogates, which cannot be encoded.
    write_atomically(path, text.encode(errors="replace"))
    return path


def report(
    runs: Sequence[Run | str | Path],
    *,
    source: ImageSource | None = None,
    out: str | Path | None = None,
    figures: str | Path | None = None,
    tables: Sequence[Table] = (),
    commands: Sequence[str] = (),
    summary: str = "",
) -> Path:
    """Write one report on one run, or on several side by side, finished or not.

    Evaluations, diagnosis and mined scores are read from the runs. Missing parts are left out.

    Args:
        runs: The runs, or their folders.
        source: The images, to show examples, views, and the rarest and most forgotten; labels are not needed.
        out: The HTML file; by default `report.html` in the folder of a single run, or in the current folder.
        figures: A folder for every figure as SVG and PNG, and for the sheets of mined images.
        tables: Tables to show before those of the runs' evaluations.
        commands: Commands that reproduce the runs.
        summary: The author's summary.

    Returns:
        Path of the file.

    Raises:
        InputError: There is no run, a run is given twice or has unreadable files, or a path cannot be written.

    Examples:
        >>> sdclr.report(["runs/digits"], source="digits").as_posix()
        'runs/digits/report.html'
    """
    named = name_runs(runs)
    alone = len(named) == 1
    results = {}
    for label, run in named.items():
        for branch, told in (("dense", label), ("sparse", f"{label}, pruned")):
            file = run.results / f"{branch}.json"
            if file.is_file():
                results[f"{branch} branch" if alone else told] = [read_evaluation(file)]
    first = next(iter(named.values()))
    return write_report(
        out or (first.path / "report.html" if alone else "report.html"),
        title=" and ".join(named) if len(named) < 3 else f"{len(named)} runs",
        runs=dict(named),
        results=results,
        source=None if source is None else with_intensities(open_source(source), first.intensities),
        tables=[*tables, *_tables(_plain(results))],
        commands=commands,
        summary=summary,
        figures=figures,
    )


def _plain(results: Mapping[str, Sequence[Evaluation]]) -> dict[str, list[Json]]:
    """The evaluations as JSON, without methods that have none."""
    plain = {
        label: [result.to_json() if isinstance(result, Result) else result for result in found]
        for label, found in results.items()
        if found
    }
    balances(plain)  # raises an error early if one is not an evaluation
    return plain


@dataclass(frozen=True)
class _Collection:
    """Facts about the images, from the source or from the records of a run."""

    name: str
    images: int
    classes: tuple[str, ...]
    counts: list[int]
    """Number of images per class; empty without labels."""


def _collection(source: Source | None, run: Run | None) -> _Collection | None:
    if source is not None:
        counts: list[int] = []
        if source.labels is not None:
            counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes)).tolist()
        return _Collection(source.name, len(source), tuple(source.classes), counts)
    if run is not None and run.source_file.is_file():
        known = run.source
        return _Collection(known["name"], known["images"], tuple(known["classes"]), known["class_counts"] or [])
    return None


def _facts(
    collection: _Collection | None,
    runs: Mapping[str, Sequence[Run]],
    results: Mapping[str, Sequence[Json]],
) -> list[tuple[str, str]]:
    """Names and values of the key facts at the top of the report."""
    facts = []
    if collection is not None:
        facts += [("Collection", collection.name), ("Images", f"{collection.images:,}")]
        counts = [count for count in collection.counts if count]
        if counts:
            facts += [("Classes", f"{len(counts):,}"), ("Largest : smallest", f"{max(counts) / min(counts):.3g} : 1")]
    configs = [run.config for found in runs.values() for run in found]
    encoders = {config.encoder.name for config in configs}
    if len(encoders) == 1:
        facts.append(("Encoder", encoders.pop()))
    if configs:
        shortest, longest = (by(configs, key=lambda one: (one.epochs, one.steps or 0)) for by in (min, max))
        facts.append(("Length", " to ".join(dict.fromkeys((shortest.length, longest.length)))))
    splits = max((len(found) for found in results.values()), default=0)
    if splits > 1:
        facts.append(("Splits", str(splits)))
    return facts


def _tables(results: Mapping[str, Sequence[Json]]) -> list[Table]:
    if not results:
        return []
    return [balance_table(balances(results, score), title=title) for score, title in _titles(results)]


def _titles(results: Mapping[str, Sequence[Json]]) -> list[tuple[ScoreName, str]]:
    """Classifiers and their titles, with the number of labels per class if all results agree."""
    shots = {result.get("few_shot", {}).get("shots") for splits in results.values() for result in splits}
    number = shots.pop() if len(shots) == 1 else None
    few = f"{number} {'label' if number == 1 else 'labels'} a class" if number else "few labels"
    return [
        ("linear", "Linear probe, all labels"),
        ("few_shot", f"Linear probe, {few}"),
        ("knn", "Nearest neighbors, all labels"),
    ]


def _bars(results: Mapping[str, Sequence[Json]], order: Sequence[str], elements: Elements) -> list[Plot]:
    drawn = []
    for score, title in _titles(results)[:2]:
        values = balances(results, score)
        if any(not np.isnan(balance.std) for splits in values.values() for balance in splits):
            drawn.append((group_bars(values, order=order), score, title))
    top = max((figure.axes[0].get_ylim()[1] for figure, _, _ in drawn), default=0)
    for figure, _, _ in drawn:
        figure.axes[0].set_ylim(top=top)  # the figures are side by side
    return [
        elements.plot(figure, f"bars-{score}", title, f"{title}: accuracy by group") for figure, score, title in drawn
    ]


def _classes(results: Mapping[str, Sequence[Json]], order: Sequence[str], elements: Elements) -> Plot | None:
    """Plot the accuracy of each class over its number of images, if known."""
    points = {
        label: [
            (count, np.nan if accuracy is None else accuracy)
            for result in splits
            for count, accuracy in zip(
                result.get("class_counts") or (), result["linear"].get("per_class", ()), strict=False
            )
        ]
        for label, splits in results.items()
    }
    points = {label: found for label, found in points.items() if found}
    if not points:
        return None
    caption = (
        "Linear probe, all labels: accuracy of each class over its number of training images, with a line fitted per "
        "method. The line falls to the left if rare classes have lower accuracy. With few classes, it also depends on "
        "which classes are easy."
    )
    return elements.plot(
        class_accuracy(points, order=order), "classes", caption, "Accuracy of each class over its images"
    )


def _curves(runs: Mapping[str, Sequence[Run]], order: Sequence[str], elements: Elements) -> Plot | None:
    figure = loss_curves(runs, order=order)
    if figure is None:
        return None
    caption = "Training loss."
    if len(runs) > 1:
        caption += " If methods contrast different inputs, compare the shapes of the curves, not the heights."
    return elements.plot(figure, "curves", caption, "Training loss over epochs")


def _profile(collection: _Collection | None, results: Mapping[str, Sequence[Json]], elements: Elements) -> Plot | None:
    if collection is None or not any(collection.counts):
        return None
    groups = None
    for result in (result for splits in results.values() for result in splits):
        if result.get("groups") and result.get("class_counts") == collection.counts:
            groups = result["groups"]
    # There may be more labels than names.
    names = collection.classes if len(collection.classes) == len(collection.counts) else ()
    figure = class_profile(collection.counts, names, groups=groups)
    caption = f"Images of each class of {collection.name}, from the most to the least frequent."
    return elements.plot(figure, "profile", caption, "Images of each class")


def _pictures(source: Source | None, run: Run | None, elements: Elements) -> dict[str, Any]:
    """Example images by class, or random ones without labels, and views as the run draws them."""
    if source is None:
        return {"examples": [], "classes_left_out": 0, "sample": None, "views": None}
    config = run.config if run is not None else None
    views = view_sheet(source, config.views, seed=config.seed) if config is not None else None
    by_class = class_sheet(source, classes=_CLASSES_SHOWN) if source.labels is not None else []
    sample = None if by_class else example_sheet(source)
    present = 0 if source.labels is None else len(np.unique(source.labels[source.labels >= 0]))
    return {
        "examples": [
            (entry, entry.sheet and elements.sheet(entry.sheet, f"Examples of {entry.name}")) for entry in by_class
        ],
        "classes_left_out": present - len(by_class),
        "sample": sample and elements.sheet(sample, "Images of the collection"),
        "views": views and elements.sheet(views, "Images and their views"),
    }


def _pruned(runs: Mapping[str, Sequence[Run]], order: Sequence[str], elements: Elements) -> list[Plot]:
    """Sparsity by layer of each method that prunes; one figure if all have the same layers."""
    found = {label: sparsity for label, several in runs.items() if (sparsity := _sparsity(several))}
    told = {label: f"{label}: {next(iter(runs[label])).config.damage.share}" for label in found}
    if len(found) > 1 and len({tuple(sparsity) for sparsity in found.values()}) == 1:
        caption = f"Share of the encoder's weights removed: {'; '.join(told.values())}."
        figure = layer_sparsity_lines(found, order=order)
        return [elements.plot(figure, "pruned", caption, "Sparsity by layer")]
    return [
        elements.plot(
            layer_sparsity_bars(sparsity),
            f"pruned-{label}",
            f"{told[label]} of the encoder's weights removed.",
            f"{label}: sparsity by layer",
        )
        for label, sparsity in found.items()
    ]


def _sparsity(runs: Sequence[Run]) -> dict[str, float]:
    """Sparsity by layer of the first run that prunes and has a checkpoint."""
    for run in runs:
        if run.config.damage.prunes:
            try:
                competitor = run.objective().competitor
            except InputError:  # no complete checkpoint: nothing to show
                continue
            if competitor is not None:
                return competitor.sparsity()
    return {}


def _bad_images(runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """Ids and reasons of the images that the first run of each method could not use."""
    bad: dict[str, str] = {}
    for run in (found[0] for found in runs.values()):
        if run.bad_images_file.is_file():
            bad |= dict(read_bad_images(run.bad_images_file))
    return list(bad.items())
