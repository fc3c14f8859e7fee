"""The report: one HTML file that opens from disk, prints well and loads nothing."""

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from sdclr.config import to_json
from sdclr.data.sources import Source
from sdclr.errors import InputError
from sdclr.evaluation.evaluate import Result
from sdclr.files import write_atomically
from sdclr.reporting.figures import class_profile, group_bars, inline_svg, layer_sparsity_bars, loss_curves
from sdclr.reporting.sheets import class_sheet, example_sheet, view_sheet
from sdclr.reporting.tables import ScoreName, Table, balance_table, balances
from sdclr.training.run import Run, read_json
from sdclr.version import __version__

Json = Mapping[str, Any]
Evaluation = Result | Json

_CLASSES_SHOWN = 20
_BAD_IMAGES_SHOWN = 50


@dataclass(frozen=True)
class Plot:
    """A figure on the page."""

    svg: Markup
    caption: str
    label: str
    """What someone who cannot see it is told."""


@dataclass(frozen=True)
class Sheet:
    """Pictures on the page."""

    uri: str
    width: int
    height: int
    label: str


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
) -> Path:
    """Write a report on one run or on a comparison of several. What is not known is left out.

    Args:
        path: The HTML file; its folder is made if need be.
        title: The heading.
        runs: The runs of each method: one, or one for each split.
        results: The evaluations of each method, one for each split: results, or the JSON that `evaluate` wrote.
        source: The collection (of several, the one to show); labels are not needed.
        tables: Shown in place of those that `results` give.
        commands: What to type to obtain all this again.
        summary: What the reader should take away, in the author's words.

    Returns:
        The file.

    Raises:
        InputError: If something among `results` is no evaluation, or the path is a folder.
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
    text = _template().render(
        title=title,
        summary=summary,
        evaluated=bool(plain),
        facts=_facts(collection, several, plain),
        tables=list(tables) or _tables(plain),
        bars=_bars(plain, order),
        curves=_curves(several, order),
        profile=_profile(collection, plain),
        **_pictures(source, first),
        pruned=list(_pruned(several)),
        settings=_settings(several),
        commands=list(commands),
        bad=_bad_images(first),
        bad_shown=_BAD_IMAGES_SHOWN,
        version=__version__,
    )
    # File names that are not UTF-8 come as lone surrogates, which no page can hold.
    write_atomically(path, text.encode(errors="replace"))
    return path


def run_report(
    run: Run, source: Source | None = None, *, commands: Sequence[str] = (), path: str | Path | None = None
) -> Path:
    """Write the report of one run, with or without evaluations, finished or not.

    Args:
        run: The run.
        source: What it was trained on, to show examples and views; labels are not needed.
        commands: What to type to obtain it again.
        path: The HTML file; by default `report.html` in the run.

    Returns:
        The file.
    """
    found = {branch: run.results / f"{branch}.json" for branch in ("dense", "sparse")}
    return write_report(
        run.path / "report.html" if path is None else path,
        title=run.path.absolute().name,
        runs={run.path.absolute().name: run},
        results={f"{branch} branch": [read_json(file)] for branch, file in found.items() if file.is_file()},
        source=source,
        commands=commands,
    )


def _plain(results: Mapping[str, Sequence[Evaluation]]) -> dict[str, list[Json]]:
    """The evaluations as JSON, methods without any left out."""
    plain = {
        label: [result.to_json() if isinstance(result, Result) else result for result in found]
        for label, found in results.items()
        if found
    }
    balances(plain)  # refuses at once what is no evaluation
    return plain


@dataclass(frozen=True)
class _Collection:
    """What is known of the images, from the source or from what a run wrote down about it."""

    name: str
    images: int
    classes: tuple[str, ...]
    counts: list[int]
    """Images of each class; empty where there are no labels."""


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
    """The few figures that say at a glance what was done."""
    facts = []
    if collection is not None:
        facts += [("Collection", collection.name), ("Images", f"{collection.images:,}")]
        present = [count for count in collection.counts if count]
        if present:
            facts += [
                ("Classes", f"{len(present):,}"),
                ("Largest : smallest", f"{max(present) / min(present):.3g} : 1"),
            ]
    configs = [run.config for found in runs.values() for run in found]
    encoders = {config.encoder.name for config in configs}
    if len(encoders) == 1:
        facts.append(("Encoder", encoders.pop()))
    epochs = {config.epochs for config in configs}
    if epochs:
        facts.append(("Epochs", " to ".join(f"{number:,}" for number in sorted({min(epochs), max(epochs)}))))
    splits = max((len(found) for found in results.values()), default=0)
    if splits > 1:
        facts.append(("Splits", str(splits)))
    return facts


def _tables(results: Mapping[str, Sequence[Json]]) -> list[Table]:
    if not results:
        return []
    return [balance_table(balances(results, score), title=title) for score, title in _titles(results)]


def _titles(results: Mapping[str, Sequence[Json]]) -> list[tuple[ScoreName, str]]:
    """The classifiers and what they are called; the number of labelled images where all results agree on it."""
    shots = {result.get("few_shot", {}).get("shots") for splits in results.values() for result in splits}
    number = shots.pop() if len(shots) == 1 else None
    few = f"{number} {'label' if number == 1 else 'labels'} a class" if number else "few labels"
    return [
        ("linear", "Linear probe, all labels"),
        ("few_shot", f"Linear probe, {few}"),
        ("knn", "Nearest neighbours, all labels"),
    ]


def _bars(results: Mapping[str, Sequence[Json]], order: Sequence[str]) -> list[Plot]:
    plots = []
    for score, title in _titles(results)[:2]:
        values = balances(results, score)
        if any(not np.isnan(balance.std) for splits in values.values() for balance in splits):
            plots.append(_plot(group_bars(values, order=order), f"bars-{score}", title, f"{title}: accuracy by group"))
    return plots


def _curves(runs: Mapping[str, Sequence[Run]], order: Sequence[str]) -> Plot | None:
    figure = loss_curves(runs, order=order)
    if figure is None:
        return None
    caption = "Training loss."
    if len(runs) > 1:
        caption += " Where methods differ in what they contrast, compare the shapes, not the heights."
    return _plot(figure, "curves", caption, "Training loss over epochs")


def _profile(collection: _Collection | None, results: Mapping[str, Sequence[Json]]) -> Plot | None:
    if collection is None or not any(collection.counts):
        return None
    groups = None
    for result in (result for splits in results.values() for result in splits):
        if result.get("groups") and result.get("class_counts") == collection.counts:
            groups = result["groups"]
    # Labels may outnumber the names.
    names = collection.classes if len(collection.classes) == len(collection.counts) else ()
    figure = class_profile(collection.counts, names, groups=groups)
    return _plot(
        figure, "profile", "Images of each class, from the most to the least frequent.", "Images of each class"
    )


def _pictures(source: Source | None, run: Run | None) -> dict[str, Any]:
    """Example images by class, or any where there are no labels; and views as the run draws them."""
    if source is None:
        return {"examples": [], "classes_left_out": 0, "sample": None, "views": None}
    config = run.config if run is not None else None
    views = view_sheet(source, config.views, seed=config.seed) if config is not None else None
    by_class = class_sheet(source, classes=_CLASSES_SHOWN) if source.labels is not None else []
    sample = None if by_class else example_sheet(source)
    present = 0 if source.labels is None else len(np.unique(source.labels[source.labels >= 0]))
    return {
        "examples": [(entry, entry.sheet and _sheet(entry.sheet, f"Examples of {entry.name}")) for entry in by_class],
        "classes_left_out": present - len(by_class),
        "sample": sample and _sheet(sample, "Images of the collection"),
        "views": views and _sheet(views, "Images and their views"),
    }


def _pruned(runs: Mapping[str, Sequence[Run]]) -> Iterator[Plot]:
    """For each method that prunes, the sparsity by layer of its first run that has a checkpoint."""
    for label, found in runs.items():
        for run in found:
            if run.config.damage.kind != "prune":
                continue
            try:
                competitor = run.objective().competitor
            except InputError:  # no whole checkpoint: there is nothing to show
                continue
            if competitor is not None:
                share = f"{run.config.damage.ratio:.0%} of the encoder's weights removed"
                figure = layer_sparsity_bars(competitor.sparsity())
                yield _plot(figure, f"pruned-{run.path.name}", f"{label}: {share}.", f"{label}: sparsity by layer")
                break


def _settings(runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """Each method's configuration as JSON; of equal ones of a method, one."""
    settings = []
    for label, found in runs.items():
        texts = dict.fromkeys(json.dumps(to_json(run.config), indent=2, ensure_ascii=False) for run in found)
        settings += [(label, text) for text in texts]
    return settings


def _bad_images(run: Run | None) -> list[tuple[str, str]]:
    if run is None or not run.bad_images_file.is_file():
        return []
    with run.bad_images_file.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(row["id"], row["reason"]) for row in csv.DictReader(file)]


def _plot(figure: Figure, prefix: str, caption: str, label: str) -> Plot:
    # Our own markup, in which the names are escaped already.
    return Plot(Markup(inline_svg(figure, prefix)), caption, label)  # noqa: S704


def _sheet(image: Image.Image, label: str) -> Sheet:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Sheet(f"data:image/png;base64,{encoded}", image.width, image.height, label)


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("sdclr.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
