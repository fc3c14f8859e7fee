"""Does self-damage pay in long runs on few images, and how much of a gain is the deeper head?

    python benchmarks/evidence/long_run.py run --set digits --runs runs/long
    python benchmarks/evidence/long_run.py run --set cifar --data DIR --runs runs/long
    python benchmarks/evidence/long_run.py table

DIR holds `cifar10` (Parquet). `run` finishes the cells (set, arm, class order) that docs/results/long_run.jsonl lacks,
the most valuable first. A run has one schedule of learning rates over all its epochs, and its encoder is judged on the
way, at snapshots. An interrupted run resumes. `table` writes docs/results/long_run_tables.md and long_run.svg from the
records, without training. Protocol and expectations are in docs/results/long_run.md; they were written before the runs.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from judge import append, features_of, few_shot, linear, rare, records, spread
from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import Source, SubsetSource, digits, open_source
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.longtail.splits import long_tail_split
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim_config import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.runtime import Runtime
from sdclr.views.parameters import ViewConfig

RECORDS: Final = Path("docs/results/long_run.jsonl")
TABLES: Final = Path("docs/results/long_run_tables.md")
FIGURE: Final = Path("docs/results/long_run.svg")


@dataclass(frozen=True)
class Arm:
    """One method with one head."""

    ratio: float
    """Share of the weights pruned in the second branch; 0 is SimCLR."""
    layers: int
    """Of the projection head."""
    number: int = 1
    """Of the run, among runs that differ in nothing but random numbers; 0 is the mean of the first two."""

    def __str__(self) -> str:
        method = f"SDCLR {self.ratio:g}" if self.ratio else "SimCLR"
        run = {0: ", mean of two runs", 1: ""}.get(self.number, f", run {self.number}")
        return f"{method}, {self.layers} layers{run}"

    @property
    def base(self) -> "Arm":
        """SimCLR with the same head and number."""
        return replace(self, ratio=0)


@dataclass(frozen=True)
class Setting:
    """A set of images and how long to train on it."""

    size: int
    batch: int
    marks: tuple[int, ...]
    """Epochs after which the encoder is judged; the last one is the length of the run."""
    shots: int
    """Labels per class of the few-shot probe."""


SETTINGS: Final = {
    "digits": Setting(size=8, batch=128, marks=(100, 200, 500, 1000, 2000), shots=5),
    "cifar": Setting(size=16, batch=256, marks=(50, 100, 200, 500), shots=50),
}
ARMS: Final = (Arm(0, 2), Arm(0.9, 3), Arm(0.9, 2), Arm(0, 3), Arm(0.5, 2), Arm(0.5, 3))
MAIN: Final = (Arm(0, 3), Arm(0.5, 3), Arm(0, 2), Arm(0.5, 2))
"""Run first, in every class order."""
AGAIN: Final = (Arm(0, 2, 2), Arm(0.5, 2, 2))
"""A second run of the pair that gained on digits."""
MEANS: Final = tuple(replace(arm, number=0) for arm in AGAIN)
"""Means over both runs of these arms."""
WIDTH: Final = 16
TITLES: Final = {"digits": "Digits", "cifar": "CIFAR-10-LT"}


@dataclass(frozen=True)
class Images:
    """Images to train on, and labeled ones to judge by."""

    train: Source
    probe: Source
    validation: Source
    test: Source


def images_of(name: str, data: Path, order: int) -> Images:
    """Long-tailed images of one class order, and a balanced set with labels that does not overlap with them."""
    if name == "digits":
        train, test = digits("train"), digits("test")
        maximum, imbalance, probe, validation = 100, 50, 600, 200
    else:
        train, test = (open_source(str(data / "cifar10"), split=split) for split in ("train", "test"))
        maximum, imbalance, probe, validation = 500, 100, 4000, 1000
    labels = np.asarray(train.labels)
    drawn = long_tail_split(labels, max_count=maximum, imbalance=imbalance, seed=order, few_shot_fraction=0).long_tail
    rng = np.random.default_rng(order)
    rest = rng.permutation(np.setdiff1d(np.arange(len(train)), drawn))[: probe + validation]
    kept, held = train_validation_split(labels[rest], validation=validation, seed=order)
    judged = np.sort(rng.permutation(len(test))[:3000])
    parts = (drawn, np.sort(rest[kept]), np.sort(rest[held]))
    long_tail, probed, checked = (SubsetSource(train, part, name=f"{name}-{order}") for part in parts)
    return Images(long_tail, probed, checked, SubsetSource(test, judged))


def settings(arm: Arm, setting: Setting, order: int) -> PretrainConfig:
    """ResNet-18 of a quarter of the usual width; SGD as in the paper, learning rate scaled by the batch size."""
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18", width=WIDTH),
        head=HeadConfig(layers=3 if arm.layers == 3 else 2),
        views=ViewConfig(image_size=setting.size),
        damage=DamageConfig(ratio=arm.ratio) if arm.ratio else DamageConfig(kind="none"),
        optim=OptimConfig(lr=0.5 * setting.batch / 512),
        temperature=0.2,
        batch_size=setting.batch,
        epochs=setting.marks[-1],
        seed=order + 100 * (arm.number - 1),
    )


def scores_of(encoder: nn.Module, images: Images, setting: Setting) -> dict[str, float]:
    """Accuracies in percent, and AUROC of the rare classes among the images of training."""
    train, held, test = (
        features_of(encoder, source, setting.size) for source in (images.probe, images.validation, images.test)
    )
    counts = np.bincount(np.asarray(images.train.labels), minlength=len(images.test.classes))
    scores = linear(train, held, test, counts)
    del scores["held"]
    scale = StandardScaler().fit(train[0])
    few = few_shot((scale.transform(train[0]), train[1]), (scale.transform(test[0]), test[1]), setting.shots)
    scores["few-shot"] = few
    scores |= rare(*features_of(encoder, images.train, setting.size), counts)
    return {name: round(value, 4 if "AUROC" in name else 2) for name, value in scores.items()}


def run(name: str, data: Path, folder: Path, orders: list[int], chosen: list[Arm]) -> None:
    """Finish the cells of a set with the chosen arms, the most valuable first."""
    setting = SETTINGS[name]
    how = Runtime(device="cpu", workers=0, amp="none", progress=False, checkpoint_minutes=2, threads=1)
    how = replace(how, snapshot_epochs=math.gcd(*setting.marks))
    for arms, order in ((arms, order) for arms in (MAIN, ARMS, AGAIN) for order in orders):
        images = images_of(name, data, order)
        for arm in (each for each in arms if each in chosen):
            key = {"set": name, "arm": str(arm), "order": order}
            done = {one["epochs"] for one in records(RECORDS) if key.items() <= one.items()}
            if done >= set(setting.marks):
                continue
            begin = time.process_time()
            trained = pretrain(
                images.train, settings(arm, setting, order), run=folder / f"{name}-{order}-{arm}", runtime=how
            )
            spent = round(time.process_time() - begin)
            for epochs in setting.marks:
                if epochs not in done:
                    encoder = trained.objective(epochs).network.encoder
                    scores = scores_of(encoder, images, setting)
                    append(RECORDS, key | {"epochs": epochs, "cpu_seconds": spent} | scores)


COLUMNS: Final = ("All", "Many", "Medium", "Few", "Std", "few-shot", "AUROC distance", "AUROC mine")


Cells = dict[tuple[str, int, int], dict[str, Any]]


def tables() -> Iterator[str]:
    """For each set: every arm at the last mark, and at each mark its difference to SimCLR with as many layers."""
    found = records(RECORDS)
    for name, setting in SETTINGS.items():
        cells = {(one["arm"], one["order"], one["epochs"]): one for one in found if one["set"] == name}
        if not cells:
            continue
        cells |= means(cells)
        yield f"### {TITLES[name]}, after {setting.marks[-1]:,} epochs\n"
        yield f"| arm | class orders | {' | '.join(COLUMNS)} |"
        yield f"|---|---|{'---|' * len(COLUMNS)}"
        for arm in (*ARMS, *AGAIN):
            orders = orders_of(cells, arm, setting.marks[-1])
            if orders:
                last = [cells[str(arm), order, setting.marks[-1]] for order in orders]
                row = [spread([one[column] for one in last], column) for column in COLUMNS]
                yield f"| {arm} | {len(orders)} | {' | '.join(row)} |"
        damaged = [arm for arm in (*ARMS, *AGAIN, *MEANS) if arm.ratio]
        compared = [(arm, arm.base, mark) for arm in damaged for mark in setting.marks]
        yield from gains_over(cells, "Difference to SimCLR with as many layers", compared)
        deep = [(arm, Arm(0, 2), setting.marks[-1]) for arm in ARMS if arm.layers == 3]
        yield from gains_over(cells, "Difference of arms with three layers to SimCLR with two", deep)
        if pairs := [pair for arm in AGAIN for pair in both_runs(cells, arm, setting.marks[-1])]:
            noise = {c: np.mean([(one[c] - other[c]) ** 2 / 2 for one, other in pairs]) ** 0.5 for c in COLUMNS}
            told = ", ".join(f"{column} {noise[column]:.{3 if 'AUROC' in column else 1}f}" for column in COLUMNS)
            yield f"\nStandard deviation between two runs of an arm in the same class order: {told}."
        yield ""


def gains_over(cells: Cells, title: str, compared: Sequence[tuple[Arm, Arm, int]]) -> Iterator[str]:
    """A table of differences of arms to bases after so many epochs."""
    if not any(differences(cells, *each) for each in compared):
        return
    yield f"\n{title}, same class order:\n"
    yield f"| arm | epochs | class orders | {' | '.join(COLUMNS)} | All of each order | Few of each order |"
    yield f"|---|---|---|{'---|' * len(COLUMNS)}---|---|"
    for arm, base, epochs in compared:
        gains = differences(cells, arm, base, epochs)
        if gains:
            row = [spread([gain[column] for gain in gains], column, signed=True) for column in COLUMNS]
            row += [", ".join(f"{gain[column]:+.1f}" for gain in gains) for column in ("All", "Few")]
            yield f"| {arm} | {epochs:,} | {len(gains)} | {' | '.join(row)} |"


def both_runs(cells: Cells, arm: Arm, epochs: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The first and the second run of an arm, in each class order that has both."""
    orders = orders_of(cells, arm, epochs)
    return [(cells[str(replace(arm, number=1)), order, epochs], cells[str(arm), order, epochs]) for order in orders]


def means(cells: Cells) -> Cells:
    """The mean of two runs, as further cells."""
    return {
        (str(replace(arm, number=0)), second["order"], epochs): {c: (first[c] + second[c]) / 2 for c in COLUMNS}
        for arm in AGAIN
        for epochs in {length for *_, length in cells}
        for first, second in both_runs(cells, arm, epochs)
    }


def orders_of(cells: Cells, arm: Arm, epochs: int) -> list[int]:
    return sorted(order for name, order, length in cells if name == str(arm) and length == epochs)


def differences(cells: Cells, arm: Arm, base: Arm, epochs: int) -> list[dict[str, float]]:
    """Of an arm to another, for each class order that both have."""
    orders = [order for order in orders_of(cells, arm, epochs) if (str(base), order, epochs) in cells]
    pairs = [(cells[str(arm), order, epochs], cells[str(base), order, epochs]) for order in orders]
    return [{column: one[column] - other[column] for column in COLUMNS} for one, other in pairs]


def figure(data: Path, out: Path) -> None:
    """Gain of SDCLR over SimCLR against epochs: the mean over class orders, and the deviation as a band."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  # training needs none

    plt.rcParams |= {"svg.hashsalt": "sdclr", "svg.fonttype": "none"}
    found = records(data)
    shown = [name for name in SETTINGS if any(one["set"] == name for one in found)]
    drawing, axes = plt.subplots(len(shown), 3, figsize=(11, 3.2 * len(shown)), squeeze=False, layout="constrained")
    for row, name in zip(axes, shown, strict=True):
        cells = {(one["arm"], one["order"], one["epochs"]): one for one in found if one["set"] == name}
        for axis, column in zip(row, ("All", "Few", "AUROC distance"), strict=True):
            for color, arm in enumerate(each for each in (*ARMS, *AGAIN) if each.ratio):
                marks = [mark for mark in SETTINGS[name].marks if differences(cells, arm, arm.base, mark)]
                if not marks:
                    continue
                values = [[one[column] for one in differences(cells, arm, arm.base, mark)] for mark in marks]
                mean = np.array([np.mean(each) for each in values])
                deviation = np.array([np.std(each, ddof=1) if len(each) > 1 else 0 for each in values])
                axis.plot(marks, mean, marker="o", markersize=3, label=str(arm), color=f"C{color}")
                axis.fill_between(marks, mean - deviation, mean + deviation, alpha=0.15, color=f"C{color}")
            axis.axhline(0, color="gray", linewidth=0.8)
            axis.set(xscale="log", xlabel="epochs", title=f"{TITLES[name]}: {column}", ylabel="gain over SimCLR")
            axis.set_xticks(SETTINGS[name].marks, [f"{mark:,}" for mark in SETTINGS[name].marks])
            axis.minorticks_off()
        row[0].legend(fontsize=7)
    drawing.savefig(out, metadata={"Date": None})
    plt.close(drawing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--set", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/long"))
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3], help="of the heads")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0, 0.5, 0.9], help="shares of the weights pruned")
    parser.add_argument("--again", action="store_true", help="second runs, with other random numbers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "table":
        TABLES.write_text("\n".join(tables()) + "\n")
        figure(RECORDS, FIGURE)
    else:
        every = AGAIN if given.again else ARMS
        chosen = [arm for arm in every if arm.layers in given.layers and arm.ratio in given.ratios]
        run(given.set, given.data, given.runs, given.orders, chosen)


if __name__ == "__main__":
    main()
