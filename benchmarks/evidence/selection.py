"""Methods for choosing images to label, with encoders trained from scratch: recall of rare classes and accuracy.

    python benchmarks/evidence/selection.py --data $SDCLR_DATA/data/cifar10 --runs runs/rarity \
        --out selection_scratch.md

The encoders were trained without labels on long-tailed subsets, each with its own class order: runs of `cifar10_lt.py`
and `rarity_runs.py` on CIFAR-10, and of `sdclr demo --train` on digits. Every method chooses 1, 2, 5 and 10 % of the
images of such a subset by encoder features alone. The measures use the true classes; Few is the rarest third of them:

- recall: share of all images of Few classes that were chosen. A random choice has the budget's share;
- lift: share of Few among the chosen images, relative to their share among all images;
- classes: number of classes among the chosen images, of ten;
- All, Few, Std: accuracy on the balanced test set of a logistic regression on the labels of the chosen images, over all
  classes, over Few, and its deviation over Many, Medium and Few. This is the purpose of the labels;
- kNN: accuracy of the vote of 5 neighbors on the same test set.

Expectation, written before the first run. Random has recall at the base rate, or the measurement is wrong. Rarity has
the largest recall at small budgets but picks many images of one kind, so that some classes are missing. Farthest-first
finds rare classes too, because they are far from the others. Rarity and variety together have about the recall of
rarity and cover all classes, and their labels train a better classifier than random ones, especially in Few.
Typicality, which prefers common images, is no better than random in recall and best in accuracy at 1 %.

The default method is the one with the largest recall, averaged over the four budgets and then over the groups of runs,
among the methods whose All, averaged in the same way, is not below random's. This rule was fixed before the first run.
The list of methods was not: `both` in its present form, `sampled, alpha 1` and `weighted, alpha 0.25` were added after
the first results.

Features and results are cached in each run, or in `--cache`. Finished runs are skipped.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import cifar10_lt
import rarity_runs
from sdclr.data.sources import Source, SubsetSource, digits, open_source
from sdclr.demo import IMBALANCE as DIGITS_IMBALANCE
from sdclr.demo import MAX_COUNT
from sdclr.encoders import Preprocessing
from sdclr.evaluation.balance import balance, per_class_accuracy
from sdclr.evaluation.config import LogisticConfig
from sdclr.evaluation.knn import knn_predict
from sdclr.evaluation.logistic import logistic_probe
from sdclr.features.extract import encode_images, load_views
from sdclr.features.nearest import nearest
from sdclr.files import read_json, write_atomically
from sdclr.longtail.splits import class_groups, long_tail_split
from sdclr.mining.selection import select_samples
from sdclr.reporting.tables import Table
from sdclr.training.run import Run

BUDGETS = (0.01, 0.02, 0.05, 0.10)
MEASURES = ("recall", "lift", "classes", "all", "few", "std", "knn")
PENALTY = 0.03
"""Penalty of the logistic regression on standardized features. Fixed, because few labels leave none to tune it."""
TOLERANCE = 1e-3
NEIGHBORS = 10


@dataclass(frozen=True)
class Way:
    """A method and its options."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 1
    """Number of seeds that are averaged."""


WAYS = {
    "random": Way("random", draws=5),
    "rarity": Way("rarity"),
    "sampled, alpha 1": Way("sampled", {"alpha": 1.0}, draws=3),
    "sampled, alpha 4": Way("sampled", {"alpha": 4.0}, draws=3),
    "clusters, 30": Way("clusters", {"clusters": 30}),
    "clusters, 100": Way("clusters", {"clusters": 100}),
    "k_center": Way("k_center", draws=2),
    "weighted, alpha 0.25": Way("weighted", {"alpha": 0.25}),
    "weighted, alpha 1": Way("weighted", {"alpha": 1.0}),
    "weighted, alpha 4": Way("weighted", {"alpha": 4.0}),
    "both": Way("both", draws=2),
    "typicality": Way("typicality"),
}


class Case(NamedTuple):
    """An encoder and the images to choose from."""

    run: Run
    group: str
    """Name of the runs that are averaged."""
    split: int
    data: str
    """`cifar10` or `digits`."""
    indices: NDArray[np.int64]
    """(N,) the subset, as positions in the training set."""


class Labeled(NamedTuple):
    """Features (N, D) and classes (N,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


def cases(train: Source, runs: Path) -> Iterator[Case]:
    """The finished runs in a folder, recognized by the names that their scripts give them."""
    for path in sorted(runs.iterdir()):
        run = Run(path)
        if not run.finished:
            continue
        if found := re.fullmatch(r"(simclr|sdclr-[\d.]+)-split(\d+)", path.name):
            arm, split = found[1], int(found[2])
            yield Case(run, f"{arm}, IF 100, n_max 4500", split, "cifar10", cifar10_lt.drawn(train, split).long_tail)
        elif found := re.fullmatch(r"(simclr|sdclr)-(\d+)", path.name):
            order = int(found[2])
            yield Case(run, f"{found[1]}, digits, IF {DIGITS_IMBALANCE}", order, "digits", digits_drawn(order))
        elif found := re.fullmatch(r"if(\d+)-order(\d+)-(\w+)-(\w+)", path.name):
            trained = rarity_runs.Trained(int(found[1]), int(found[2]), found[3], found[4])
            group = f"{trained.method}, IF {trained.imbalance}, n_max {rarity_runs.MAX_COUNT}, {trained.length}"
            yield Case(run, group, trained.order, "cifar10", rarity_runs.split_of(train, trained).long_tail)


def digits_drawn(order: int) -> NDArray[np.int64]:
    """The subset that the demo trains on."""
    labels = np.asarray(digits("train").labels)
    return long_tail_split(
        labels, max_count=MAX_COUNT, imbalance=DIGITS_IMBALANCE, seed=order, few_shot_fraction=0
    ).long_tail


class Features:
    """Features of the runs, from the cache if possible."""

    def __init__(self, train: Source, test: Source, cache: Path | None) -> None:
        self.sources = {"cifar10": (train, test), "digits": (digits("train"), digits("test"))}
        self.cache = cache
        self._tests: dict[tuple[str, int], tuple[torch.Tensor, NDArray[np.int64]]] = {}

    def folder(self, run: Run) -> Path:
        return self.cache / run.path.name if self.cache else run.path

    def of(self, case: Case) -> tuple[Labeled, Labeled]:
        """Features of the subset and of the test images."""
        file = self.folder(case.run) / "selection_features.npz"
        if file.exists():
            with np.load(file) as stored:
                if np.array_equal(stored["indices"], case.indices):
                    return Labeled(stored["x"], stored["y"]), Labeled(stored["test_x"], stored["test_y"])
        encoder, size = case.run.encoder(), case.run.config.views.image_size
        train, test = self.sources[case.data]
        if (case.data, size) not in self._tests:  # the same for many runs
            self._tests[case.data, size] = _views(test, size)
        seen = _views(SubsetSource(train, case.indices), size), self._tests[case.data, size]
        pool, judge = (Labeled(encode_images(encoder, views, batch_size=512).numpy(), y) for views, y in seen)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".tmp.npz")
        np.savez(aside, indices=case.indices, x=pool.x, y=pool.y, test_x=judge.x, test_y=judge.y)
        aside.replace(file)
        return pool, judge


def _views(source: Source, size: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Evaluation views and their classes."""
    views = load_views(source, preprocessing=Preprocessing(image_size=size))
    return views.images, np.asarray(source.labels)[views.kept]


def measure(
    chosen: NDArray[np.int64], pool: Labeled, test: Labeled, groups: Mapping[str, NDArray[np.int64]]
) -> dict[str, float]:
    """Quality of a choice; shares in percent."""
    tail = np.isin(pool.y, groups["few"])
    x, y = pool.x[chosen], pool.y[chosen]
    kinds = int(pool.y.max()) + 1
    probe = logistic_probe(x, y, x, y, kinds, LogisticConfig(penalties=(PENALTY,), tolerance=TOLERANCE))
    per_class = 100 * per_class_accuracy(probe.predict(test.x), test.y, kinds)
    found = balance(per_class, groups)
    votes = knn_predict(x, y, test.x, kinds, k=5)
    return {
        "recall": 100 * tail[chosen].sum() / tail.sum(),
        "lift": tail[chosen].mean() / tail.mean(),
        "classes": len(np.unique(y)),
        "all": found.all,
        "few": found.few,
        "std": found.std,
        "knn": 100 * float((votes == test.y).mean()),
    }


def choose_all(pool: Labeled, test: Labeled, known: dict[str, Any]) -> dict[str, Any]:
    """Means over the draws of every method: method -> budget -> measure -> figure. Adds the missing ones to `known`."""
    groups = class_groups(np.bincount(pool.y))
    rarity = nearest(pool.x, NEIGHBORS).distances.mean(dim=1).numpy()
    for name, way in WAYS.items():
        if known.get(name, {}).get("way") == (described := {**way.options, "draws": way.draws}):
            continue
        known[name] = {"way": described}
        for budget in BUDGETS:
            found = []
            for seed in range(way.draws):
                count = round(budget * len(pool.y))
                chosen = select_samples(pool.x, rarity, count, method=way.method, seed=seed, **way.options)
                found.append(measure(chosen, pool, test, groups))
            known[name][f"{budget:g}"] = {key: float(np.mean([one[key] for one in found])) for key in MEASURES}
    return known


def collect(data: Path, runs: Sequence[Path], cache: Path | None) -> dict[str, dict[str, Any]]:
    """Results by run."""
    train, test = open_source(data, split="train"), open_source(data, split="test")
    features = Features(train, test, cache)
    results = {}
    for case in (case for folder in runs for case in cases(train, folder)):
        file = features.folder(case.run) / "selection.json"
        pool, judge = features.of(case)
        ways = choose_all(pool, judge, read_json(file)["ways"] if file.exists() else {})
        tail = np.isin(pool.y, class_groups(np.bincount(pool.y))["few"])
        entry = {
            "group": case.group,
            "split": case.split,
            "images": len(pool.y),
            "few_share": 100 * float(tail.mean()),
            "ways": {name: ways[name] for name in WAYS},
        }
        write_atomically(file, json.dumps(entry, indent=1).encode())
        results[case.run.path.name] = entry
        print(case.run.path.name, flush=True)
    return results


def winner(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The method with the largest recall among those whose classifiers are not below those of random labels."""
    recall, accuracy = (overall(results, key) for key in ("recall", "all"))
    return max((name for name in WAYS if accuracy[name] >= accuracy["random"]), key=recall.__getitem__)


def overall(results: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """A measure of each method, averaged over budgets, then runs, then groups of runs."""
    by_group: dict[str, list[Mapping[str, Any]]] = {}
    for result in results.values():
        by_group.setdefault(result["group"], []).append(result["ways"])

    def one(name: str, ways: Mapping[str, Any]) -> float:
        return float(np.mean([ways[name][f"{budget:g}"][key] for budget in BUDGETS]))

    return {
        name: float(np.mean([np.mean([one(name, ways) for ways in members]) for members in by_group.values()]))
        for name in WAYS
    }


def tables(results: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """One table over everything, then one for each group of runs and budget."""
    means = {key: overall(results, key) for key in MEASURES}
    heading = ("method", "recall %", "lift", "classes", "All", "Few", "Std", "kNN")
    best = winner(results)
    rows = tuple((name, *(f"{means[key][name]:.2f}" for key in MEASURES)) for name in WAYS)
    stress = frozenset({(list(WAYS).index(best), 0)})
    note = f"Largest recall with All not below random's: {best}."
    found = [Table("Mean over budgets, runs and groups of runs", heading, rows, note, stress)]
    for group in dict.fromkeys(result["group"] for result in results.values()):
        members = [result for result in results.values() if result["group"] == group]
        sizes = sorted({result["images"] for result in members})
        few = np.mean([result["few_share"] for result in members])
        for budget in BUDGETS:
            lines = []
            for name in WAYS:
                cells = [[member["ways"][name][f"{budget:g}"][key] for member in members] for key in MEASURES]
                lines.append((name, *(f"{np.mean(cell):.1f} ± {np.std(cell):.1f}" for cell in cells)))
            title = f"{group}: {budget:.0%} of {', '.join(map(str, sizes))} images"
            note = f"{len(members)} class orders; {few:.1f} % of the images are of Few classes."
            found.append(Table(title, heading, tuple(lines), note))
    return found


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def report(results: Mapping[str, Mapping[str, Any]], out: Path, command: str) -> None:
    """Write Markdown, and JSON next to it."""
    head = f"# Which images to label next\n\nMade by `{command}` at {commit()}.\n\n"
    explained = (__doc__ or "").split("\n\n", 2)[2]
    text = head + explained + "\n" + "\n".join(table.markdown() for table in tables(results))
    write_atomically(out, text.encode())
    whole = {"commit": commit(), "winner": winner(results), "results": results}
    write_atomically(out.with_suffix(".json"), (json.dumps(whole, indent=1) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs")
    parser.add_argument("--cache", type=Path, help="folder of features; by default in the runs")
    parser.add_argument("--out", type=Path, default=Path("selection_scratch.md"), help="the report")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = collect(options.data, options.runs, options.cache)
    if not results:
        parser.error(f"no finished run in {', '.join(map(str, options.runs))}: train some with rarity_runs.py")
    report(results, options.out, "python benchmarks/evidence/selection.py --data DIR --runs DIR")
    print(f"{options.out}: {winner(results)}")


if __name__ == "__main__":
    main()
