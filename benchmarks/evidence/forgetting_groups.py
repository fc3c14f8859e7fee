"""Groups of classes among the most forgotten images, over the epochs: a small version of the paper's Figure 2.

    python benchmarks/evidence/forgetting_groups.py --data $SDCLR_DATA/data/cifar10 --runs runs/forgetting \
        --out docs/results

The paper prunes the encoder of a long-tailed SimCLR run and finds that Few classes are overrepresented among the 1 % of
test images whose features change most. Expectation, written before the first run: in the comparison of rarity scores,
forgetting was near chance at this size, so shares should stay near those of the balanced test set, which are the
control. Encoders are those of `rarity_runs.py` (imbalance 100, "long"), SimCLR and SDCLR, for two class orders. At 1 %
of 10,000 images a share has a standard error of 5 %.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from rarity_runs import Trained, config_of, split_of, subset_of
from sdclr.data.sources import open_source
from sdclr.encoders import Preprocessing
from sdclr.evaluation.balance import GROUPS
from sdclr.features.extract import encode_images, load_views
from sdclr.longtail.splits import class_groups
from sdclr.method import SelfCompetitor
from sdclr.mining.forgetting import forgetting
from sdclr.reporting.figures import save_figure
from sdclr.training.config import Runtime
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run

ORDERS = (1, 2)
EVERY = 8
RATIOS = (0.5, 0.9)
SHARE = 0.01


def shares(run: Run, epoch: int, views: torch.Tensor, labels: np.ndarray, few: dict[str, Any]) -> list[dict[str, Any]]:
    """Shares of the groups among the most forgotten images at each ratio. SimCLR's network keeps its statistics."""
    objective = run.objective(epoch)
    encoder = objective.network.encoder
    dense = encode_images(encoder, views)
    rows = []
    for ratio in RATIOS:
        twin = objective.competitor or SelfCompetitor(objective.network, independent_norm=False)
        twin.ratio = ratio
        twin.refresh()
        lost = forgetting(dense, encode_images(twin.part("encoder"), views))
        most = labels[lost.argsort(descending=True)[: round(SHARE * len(labels))].numpy()]
        rows.append({"epoch": epoch, "ratio": ratio} | {g: float(np.isin(most, few[g]).mean()) for g in GROUPS})
    return rows


def collect(data: Path, runs: Path) -> list[dict[str, Any]]:
    """Train missing runs, and evaluate every snapshot."""
    train, test = open_source(data, split="train"), open_source(data, split="test")
    views = load_views(test, preprocessing=Preprocessing(image_size=16)).images
    found = []
    for order in ORDERS:
        for method in ("simclr", "sdclr"):
            trained = Trained(100, order, method, "long")
            runtime = Runtime(progress=False, log_steps=1000, snapshot_epochs=EVERY)
            run = pretrain(subset_of(train, trained), config_of(trained), run=runs / trained.name, runtime=runtime)
            groups = class_groups(split_of(train, trained).counts)
            for epoch in range(EVERY, run.config.epochs + 1, EVERY):
                rows = shares(run, epoch, views, np.asarray(test.labels), groups)
                found += [{"order": order, "method": method} | row for row in rows]
            print(run.path, found[-1], flush=True)
    return found


def control(groups: dict[str, Any]) -> dict[str, float]:
    """Shares of the groups in the test set, which is balanced."""
    total = sum(len(groups[group]) for group in GROUPS)
    return {group: len(groups[group]) / total for group in GROUPS}


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """A panel for each method and ratio: mean and range over class orders, and dotted the test set's shares."""
    control_share = control(class_groups(np.arange(10, 0, -1)))
    figure, axes = plt.subplots(2, len(RATIOS), figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
    for line, method in zip(axes, ("simclr", "sdclr"), strict=True):
        for axis, ratio in zip(line, RATIOS, strict=True):
            chosen = [row for row in rows if row["method"] == method and row["ratio"] == ratio]
            epochs = sorted({row["epoch"] for row in chosen})
            for number, group in enumerate(GROUPS):
                values = np.array([[row[group] for row in chosen if row["epoch"] == epoch] for epoch in epochs]) * 100
                axis.plot(epochs, values.mean(axis=1), color=f"C{number}", label=group)
                axis.axhline(100 * control_share[group], color=f"C{number}", linestyle=":", linewidth=1)
                axis.fill_between(epochs, values.min(axis=1), values.max(axis=1), color=f"C{number}", alpha=0.15)
            axis.set_title(f"{method}, {ratio:.0%} pruned", fontsize=10)
            axis.set_ylim(0, 100)
            axis.grid(alpha=0.3)
        line[0].set_ylabel(f"share of the {SHARE:.0%} most forgotten / %")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    axes[0, 0].legend()
    save_figure(figure, out / "forgetting_groups")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of figure and table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = collect(options.data, options.runs)
    with (options.out / "forgetting_groups.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.out)


if __name__ == "__main__":
    main()
