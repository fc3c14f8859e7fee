"""Which score finds the rare images? Comparison of all scores of `sdclr mine` and combinations of them.

Expectation, written before the first run: in first measurements on one class order, the distance to the nearest
neighbors found images of rare classes, forgetting did not, and the contrastive loss was lower in the tail. If this
holds, distance has an AUROC clearly above 0.5 in every setting, forgetting stays near 0.5 and loss below it. Controls:
several class orders, so that rare does not mean easy, and a random score.

    python benchmarks/evidence/rarity_runs.py --data DIR --runs runs/rarity
    sdclr demo --train --run runs/demo
    python benchmarks/evidence/cifar10_lt.py train --data DIR --runs runs/lt --arms simclr sdclr-0.5 --amp bf16
    python benchmarks/evidence/rarity.py --data DIR --runs runs/rarity --large runs/lt --digits runs/demo

An image counts as rare if its class is among the Few, the rarest third of the classes. The measurements of a run are
stored in its folder and not repeated.
"""

import argparse
import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

import cifar10_lt
from rarity_runs import matrix, split_of, subset_of
from sdclr.data.sources import Source, SubsetSource, digits, open_source
from sdclr.demo import IMBALANCE, MAX_COUNT
from sdclr.evaluation.clusters import find_clusters
from sdclr.features.nearest import nearest
from sdclr.longtail.splits import class_groups, long_tail_split
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import mine
from sdclr.training.run import Run

K = (1, 5, 10, 20, 50, 100)
RATIOS = (0.3, 0.5, 0.9)
SHARES = (0.01, 0.05)
MEASURES = ("auroc", "average precision", "lift at 1 %", "lift at 5 %")


class Case(NamedTuple):
    """One encoder, and its training images, which are ranked."""

    setting: str
    """Name. Class orders with the same setting are averaged."""
    order: int
    run: Run
    source: Source
    few: NDArray[np.int64]
    """Ids of the rare classes."""


def cifar_cases(data: Path, runs: Path) -> Iterator[Case]:
    """Finished runs of `rarity_runs.py`."""
    train = open_source(data, split="train")
    for trained in matrix():
        run = Run(runs / trained.name)
        if run.finished:
            few = class_groups(split_of(train, trained).counts)["few"]
            setting = f"CIFAR-10-LT, IF {trained.imbalance}, {trained.method}, {trained.length}"
            yield Case(setting, trained.order, run, subset_of(train, trained), few)


def large_cases(data: Path, runs: Path) -> Iterator[Case]:
    """Finished runs of `cifar10_lt.py`: three times the images, 40 epochs."""
    train = open_source(data, split="train")
    for arm in ("simclr", "sdclr-0.5"):
        for split in cifar10_lt.SPLITS:
            run = Run(runs / f"{arm}-split{split}")
            if run.finished:
                drawn = cifar10_lt.drawn(train, split)
                source = SubsetSource(train, drawn.long_tail, name=f"cifar10-lt-{split}")
                setting = f"CIFAR-10-LT, IF 100, 11,165 images, {arm.partition('-')[0]}, 40 epochs"
                yield Case(setting, split, run, source, class_groups(drawn.counts)["few"])


def digits_cases(runs: Path) -> Iterator[Case]:
    """Finished runs of `sdclr demo --train`."""
    train = digits("train")
    for method in ("simclr", "sdclr"):
        for run in (Run(path) for path in sorted(runs.glob(f"{method}-*"))):
            order = run.config.seed
            drawn = long_tail_split(
                np.asarray(train.labels), max_count=MAX_COUNT, imbalance=IMBALANCE, seed=order, few_shot_fraction=0
            )
            few = class_groups(drawn.counts)["few"]
            source = SubsetSource(train, drawn.long_tail, name=f"digits-{order}")
            if run.finished:
                yield Case(f"digits, IF {IMBALANCE}, {method}, {run.config.epochs} epochs", order, run, source, few)


def scores_of(case: Case) -> dict[str, NDArray[np.float64]]:
    """All scores (N,); larger means rarer."""
    k = tuple(number for number in K if number < len(case.source))
    config = MineConfig(k=k, ratios=RATIOS, projection=True, loss=True, lof=True, amp="none")
    mined = mine(case.source, config, encoder=case.run, out=case.run.path / "contest")
    features = np.load(case.run.path / "contest" / "reading" / "features.npy")
    found = dict(mined.columns)
    found.pop("kind_size")  # excluded: only scores of single images are compared
    root = max(1, round(len(features) ** 0.5))
    for clusters, name in ((root, "√N"), (10, "10"), (30, "30")):
        partition = find_clusters(features, clusters)
        found[f"cluster_size, {name}"] = -partition.sizes[partition.labels]
    table = torch.from_numpy(features)
    around = nearest(table, 10)
    found["euclidean_10"] = nearest(table, 10, metric="euclidean").distances.mean(dim=1).numpy()
    own = around.distances.mean(dim=1)
    found["distance_10, mean over neighbors"] = own[around.indices].mean(dim=1).numpy()
    found["-norm"] = -np.linalg.norm(features, axis=1)
    found["isolation forest"] = -IsolationForest(random_state=0).fit(features).score_samples(features)
    found["random"] = np.random.default_rng(case.order).random(len(features))
    return combined({name: np.asarray(values, dtype=np.float64) for name, values in found.items()})


def combined(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The scores and label-free combinations of their ranks."""
    ranks = {name: rankdata(values) / len(values) for name, values in scores.items()}
    parts = {
        "distance + cluster size": ("distance_10", "cluster_size, √N"),
        "distance + forgetting": ("distance_10", "forgetting_0.5"),
        "distance - loss": ("distance_10", "-loss"),
        "distance - forgetting": ("distance_10", "-forgetting_0.5"),
        "distance + cluster size - loss": ("distance_10", "cluster_size, √N", "-loss"),
    }
    ranks |= {f"-{name}": 1 - values for name, values in ranks.items()}
    means = {name: np.mean([ranks[part] for part in used], axis=0) for name, used in parts.items()}
    return {**scores, **means, "first component of the ranks": _first_component(ranks)}


def _first_component(ranks: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """First principal component of the ranks, with the sign of distance."""
    used = ("distance_10", "forgetting_0.5", "loss", "cluster_size, √N", "lof_10")
    table = np.stack([ranks[name] for name in used], axis=1)
    table -= table.mean(axis=0)
    component: NDArray[np.float64] = table @ np.linalg.svd(table, full_matrices=False)[2][0]
    return component * np.sign(component @ table[:, 0])


def measure(score: NDArray[np.float64], rare: NDArray[np.bool_]) -> dict[str, float]:
    """Quality of a score for finding rare images. Chance gives an AUROC of 0.5 and a lift of 1."""
    order = np.argsort(-score, kind="stable")
    figures = {"auroc": roc_auc_score(rare, score), "average precision": average_precision_score(rare, score)}
    for share in SHARES:
        first = order[: max(1, round(share * len(order)))]
        figures[f"lift at {share:.0%}".replace("%", " %")] = rare[first].mean() / rare.mean()
    return {name: float(value) for name, value in figures.items()}


def contest(cases: Iterator[Case]) -> Iterator[dict[str, Any]]:
    """One row for each case and score."""
    for case in cases:
        kept = case.run.path / "contest.json"
        if not kept.is_file():
            rare = np.isin(np.asarray(case.source.labels), case.few)
            figures = {name: measure(score, rare) for name, score in scores_of(case).items()}
            kept.write_text(json.dumps({"base rate": float(rare.mean()), "scores": figures}))
            print(case.setting, case.order, round(figures["distance_10"]["auroc"], 3), flush=True)
        found = json.loads(kept.read_text())
        for name, figures in found["scores"].items():
            yield {
                "setting": case.setting,
                "order": case.order,
                "base rate": found["base rate"],
                "score": name,
            } | figures


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: all scores over all settings, then the AUROC in each setting."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["score"], row["setting"]].append(row)

    def mean_of(score: str, measure: str, chosen: Sequence[str]) -> float:
        """Mean over settings. A setting counts once, regardless of its number of class orders."""
        return float(np.mean([np.mean([row[measure] for row in cells[score, setting]]) for setting in chosen]))

    names = sorted({row["score"] for row in rows}, key=lambda name: -mean_of(name, "auroc", settings))
    lowest = {name: min(float(row["auroc"]) for row in rows if row["score"] == name) for name in names}
    lines = ["| score | " + " | ".join(MEASURES) + " | lowest AUROC |", "| --- |" + " ---: |" * (len(MEASURES) + 1)]
    for name in names:
        figures = [f"{mean_of(name, measure, settings):.3f}" for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join(figures) + f" | {lowest[name]:.3f} |")
    shown = [name for name in names if name in SHOWN]
    lines += [
        "",
        "| AUROC | base rate | orders | " + " | ".join(shown) + " |",
        "| --- |" + " ---: |" * (len(shown) + 2),
    ]
    for setting in settings:
        orders = len(cells[names[0], setting])
        base = np.mean([row["base rate"] for row in cells[names[0], setting]])
        figures = [_mean_std([row["auroc"] for row in cells[name, setting]]) for name in shown]
        lines.append(f"| {setting} | {base:.3f} | {orders} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


SHOWN = ("distance_10", "distance_10, mean over neighbors", "cluster_size, √N", "lof_10", "isolation forest", "-norm",
         "distance + cluster size", "forgetting_0.5", "forgetting_0.9", "loss", "random")  # fmt: skip


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def _mean_std(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--runs", type=Path, help="folder of the runs on CIFAR-10")
    parser.add_argument("--large", type=Path, help="folder of the runs of cifar10_lt.py")
    parser.add_argument("--digits", type=Path, help="folder of the runs of `sdclr demo --train`")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sources: list[Callable[[], Iterator[Case]]] = []
    if options.data is not None and options.runs is not None:
        sources.append(lambda: cifar_cases(options.data, options.runs))
    if options.data is not None and options.large is not None:
        sources.append(lambda: large_cases(options.data, options.large))
    if options.digits is not None:
        sources.append(lambda: digits_cases(options.digits))
    rows = [row for cases in sources for row in contest(cases())]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    options.out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(_rounded(row), ensure_ascii=False) for row in rows)
    (options.out / "rarity_scratch.json").write_text(f'{{"commit": "{commit.strip()}", "rows": [\n{lines}\n]}}\n')
    (options.out / "rarity_scratch_tables.md").write_text(tables(rows))


if __name__ == "__main__":
    main()
