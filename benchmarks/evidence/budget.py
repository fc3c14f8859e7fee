"""Which settings give the best features in 5, 30 and 120 minutes on a CPU? The script fills a table cell by cell.

The machine may be shared, so a budget is a number of steps instead of wall time. `speeds` measures the images per CPU
second of one thread; two quiet cores process 1.2 times as many per second (402 images of CIFAR-10 in a measurement).
A budget of M minutes is M x 60 x 0.9 x 1.2 x that many images (one tenth is for reading, encoder and report). A cell
trains for the corresponding number of whole epochs and is then evaluated with a linear probe. Finished cells are lines
of a JSONL file; an interrupted cell resumes from its checkpoint.

    python benchmarks/evidence/budget.py speeds --data DIR --out docs/results/budget.jsonl
    python benchmarks/evidence/budget.py cells --data DIR --out docs/results/budget.jsonl        # most valuable first
    python benchmarks/evidence/budget.py table --out docs/results/budget.jsonl

DIR holds `cifar10` (Parquet) and `clothing` (folders train and test). docs/results/budget.md describes the protocol and
the rule of choice.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import Source, SubsetSource, digits, open_source
from sdclr.encoders import DEFAULT, Preprocessing, load_encoder
from sdclr.evaluation.balance import balance, per_class_accuracy
from sdclr.evaluation.logistic import logistic_probe
from sdclr.features.extract import extract_features
from sdclr.longtail.splits import class_groups, long_tail_split
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import default_config
from sdclr.training.distributed import processes
from sdclr.training.pretrain import _trainer, pretrain
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime

SHARE = 0.9
"""Share of a budget for training."""
TWO_CORES = 1.2
"""Work of two threads on two quiet cores in one second, in CPU seconds of one thread."""
PROBE_IMAGES = 4000
"""Labeled CIFAR-10 images for training the probe; half as many are for testing."""
MOST_EPOCHS = 800
"""Maximum number of epochs: more were never useful at this size. Digits reach it within 30 minutes."""


@dataclass(frozen=True)
class Arm:
    """Settings to compare."""

    size: int | None
    """Side of the views in pixels; None keeps that of `default_config`."""
    start: str | None = None
    width: int | None = None
    frozen: bool = False


ARMS = {
    "scratch": Arm(None),
    "scratch, width 32": Arm(None, width=32),
    "scratch, 64 px": Arm(64),
    "adapted, 64 px": Arm(64, DEFAULT),
    "adapted, 96 px": Arm(96, DEFAULT),
    "adapted, 128 px": Arm(128, DEFAULT),
    "frozen, 64 px": Arm(64, DEFAULT, frozen=True),
    "frozen, 96 px": Arm(96, DEFAULT, frozen=True),
    "frozen, 128 px": Arm(128, DEFAULT, frozen=True),
}
CELLS = [
    *((name, 0, arm, 0) for name in ("digits", "clothing", "cifar") for arm in ("frozen, 96 px", "frozen, 64 px")),
    ("clothing", 0, "frozen, 128 px", 0),
    ("clothing", 5, "adapted, 128 px", 0),
    ("clothing", 5, "scratch", 0),
    *((name, 5, arm, 0) for name in ("digits", "cifar") for arm in ("adapted, 64 px", "scratch")),
    *(("clothing", 30, arm, 0) for arm in ("adapted, 128 px", "scratch")),
    ("digits", 30, "scratch", 0),
    *(("cifar", 30, arm, 0) for arm in ("scratch", "adapted, 64 px")),
    ("clothing", 5, "adapted, 64 px", 0),
    ("cifar", 5, "adapted, 96 px", 0),
    ("digits", 30, "adapted, 64 px", 0),
    *((name, 5, arm, 1) for name in ("cifar", "clothing", "digits") for arm in ("adapted, 64 px", "scratch")),
    ("clothing", 5, "adapted, 96 px", 0),
    ("digits", 5, "adapted, 96 px", 0),
    ("cifar", 0, "frozen, 96 px", 1),
    ("clothing", 5, "scratch, 64 px", 0),
    *((name, 30, "adapted, 96 px", 0) for name in ("clothing", "cifar", "digits")),
    *((name, 30, "scratch, width 32", 0) for name in ("cifar", "clothing", "digits")),
    *((name, 120, arm, 0) for name in ("cifar", "clothing", "digits") for arm in ("adapted, 96 px", "scratch")),
]
"""Collection, minutes, arm and seed (of the class order of CIFAR-10-LT and of the run); most valuable cells first."""


@dataclass(frozen=True)
class Collection:
    """Images for training, and labeled images for evaluation."""

    train: Source
    probe: Source
    probe_validation: Source
    test: Source

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of training images of each class."""
        return np.bincount(np.asarray(self.train.labels), minlength=len(self.test.classes))


def collection(
    name: str, data: Path, seed: int, *, max_count: int = 1500, judged: int = PROBE_IMAGES // 2
) -> Collection:
    """CIFAR-10-LT (imbalance 100, `max_count` images of the most frequent class), clothing photos, or digits."""
    if name == "cifar":
        train, test = (open_source(str(data / "cifar10"), split=split) for split in ("train", "test"))
        drawn = long_tail_split(
            np.asarray(train.labels), max_count=max_count, imbalance=100, seed=seed, few_shot_fraction=0
        )
        rng = np.random.default_rng(seed)
        rest = rng.permutation(np.setdiff1d(np.arange(len(train)), drawn.long_tail))
        return Collection(
            SubsetSource(train, drawn.long_tail, name="cifar10-lt"),
            SubsetSource(train, np.sort(rest[:PROBE_IMAGES])),
            SubsetSource(train, np.sort(rest[PROBE_IMAGES : PROBE_IMAGES + 1000])),
            SubsetSource(test, np.sort(rng.choice(len(test), judged, replace=False))),
        )
    if name == "clothing":
        train, test = open_source(str(data / "clothing" / "train")), open_source(str(data / "clothing" / "test"))
    else:
        train, test = digits("train"), digits("test")
    labels = np.asarray(train.labels)
    kept, held = train_validation_split(labels, validation=len(labels) // 6, seed=seed)
    return Collection(train, SubsetSource(train, kept), SubsetSource(train, held), test)


def settings(arm: Arm, source: Source, seed: int, epochs: int = 1) -> PretrainConfig:
    """The automatic settings for a CPU, with the changes of the arm."""
    config = default_config(source, gpu=False, start=arm.start)
    if arm.size is not None:
        config = replace(config, views=replace(config.views, image_size=arm.size))
    if arm.width is not None:
        config = replace(config, encoder=replace(config.encoder, width=arm.width))
    warmup = min(1.0 if arm.start else 10.0, epochs / 10)
    return replace(config, seed=seed, epochs=epochs, optim=replace(config.optim, warmup_epochs=warmup))


def runtime(arm: Arm) -> Runtime:
    """Runtime settings. bfloat16 makes plain ResNets faster, but the pretrained, depthwise network slower."""
    amp = "none" if arm.start else "auto"
    return Runtime(device="cpu", workers=0, amp=amp, progress=False, checkpoint_minutes=1)


def speed(arm: Arm, source: Source, folder: Path, seconds: float = 4.0) -> float:
    """Images per CPU second of this thread, in the fastest quarter of the steps: other processes slow the caches."""
    config, how = settings(arm, source, 0), runtime(arm)
    run, took = Run(folder), []
    with processes("cpu") as place:
        trainer = _trainer(run, source, config, how, place, weights=None)
        trainer.objective.train()
        trainer.guidance.enter_epoch(0, begins=True)
        begin = last = time.process_time()
        while last - begin < seconds or len(took) < 5:
            for batch in trainer.feed.loader.epoch(len(took), 0):
                trainer._take_step(batch)  # noqa: SLF001
                trainer._check_losses()  # noqa: SLF001
                now = time.process_time()
                took.append(now - last)
                last = now
                if now - begin >= seconds and len(took) >= 5:
                    break
    fastest = sorted(took[1:])[: max(1, len(took) // 4)]
    return config.batch_size / statistics.mean(fastest)


def features(encoder: nn.Module, source: Source, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features and labels of the images of a source that can be read."""
    found = extract_features(encoder, source, preprocessing=Preprocessing(image_size=size))
    return found.values, np.asarray(source.labels)[found.kept]


def judge(encoder: nn.Module, size: int, images: Collection) -> dict[str, float]:
    """Accuracies of a linear probe, in percent."""
    x, y = features(encoder, images.probe, size)
    held, held_y = features(encoder, images.probe_validation, size)
    test, truth = features(encoder, images.test, size)
    classes = len(images.test.classes)
    layer = logistic_probe(x, y, held, held_y, classes)
    accuracy = 100 * per_class_accuracy(layer.predict(test), truth, classes)
    return {key: round(value, 2) for key, value in balance(accuracy, class_groups(images.counts))._asdict().items()}


def records(out: Path, kind: str) -> Iterator[dict[str, Any]]:
    lines = out.read_text().splitlines() if out.is_file() else []
    yield from (record for record in map(json.loads, lines) if record["kind"] == kind)


def append(out: Path, **values: Any) -> None:
    with out.open("a") as file:
        file.write(json.dumps(values) + "\n")
    print(json.dumps(values), flush=True)


def measure_speeds(out: Path, data: Path, runs: Path) -> None:
    """Measure the missing speeds of all arms and collections of cells."""
    known = {(record["collection"], record["arm"]) for record in records(out, "speed")}
    for name, minutes, arm, _ in CELLS:
        if minutes and (name, arm) not in known:
            known.add((name, arm))
            record_speed(out, data, runs, name, arm)


def record_speed(out: Path, data: Path, runs: Path, name: str, arm: str) -> float:
    """Measure and store the speed of an arm."""
    folder = runs / "speed" / f"{name}-{arm}"
    images = round(speed(ARMS[arm], collection(name, data, 0).train, folder), 1)
    append(out, kind="speed", collection=name, arm=arm, images_per_cpu_second=images)
    return images


def do_cells(out: Path, data: Path, runs: Path) -> None:
    """Compute the missing cells in order."""
    speeds = {(one["collection"], one["arm"]): one["images_per_cpu_second"] for one in records(out, "speed")}
    done = {(one["collection"], one["minutes"], one["arm"], one["seed"]) for one in records(out, "cell")}
    for name, minutes, arm_name, seed in CELLS:
        arm = ARMS[arm_name]
        if (name, minutes, arm_name, seed) in done:
            continue
        images, begin = collection(name, data, seed), time.process_time()
        if arm.frozen:
            epochs, encoder = 0, load_encoder(image_size=arm.size)
            size = encoder.image_size
        else:
            rate = speeds.get((name, arm_name)) or record_speed(out, data, runs, name, arm_name)
            speeds[name, arm_name] = rate
            epochs = min(MOST_EPOCHS, max(1, int(SHARE * TWO_CORES * 60 * minutes * rate / len(images.train))))
            config = settings(arm, images.train, seed, epochs)
            size = config.views.image_size
            folder = runs / f"{name}-{minutes}-{arm_name.replace(', ', '-').replace(' ', '')}-{seed}"
            encoder = pretrain(images.train, config, run=folder, runtime=runtime(arm)).encoder()
        scores = judge(encoder, size, images)
        spent = round(time.process_time() - begin)
        append(
            out,
            kind="cell",
            collection=name,
            minutes=minutes,
            arm=arm_name,
            seed=seed,
            epochs=epochs,
            cpu_seconds=spent,
            **scores,
        )


def table(out: Path) -> str:
    """Means over seeds, as Markdown."""
    rows: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for name, minutes, arm, _ in CELLS:
        rows.setdefault((name, minutes, arm), [])
    for one in records(out, "cell"):
        rows.setdefault((one["collection"], one["minutes"], one["arm"]), []).append(one)
    lines = ["| collection | minutes | settings | epochs | seeds | All | Many | Medium | Few |", "|---" * 9 + "|"]
    for (name, minutes, arm), found in sorted(rows.items()):
        if not found:
            lines.append(f"| {name} | {minutes} | {arm} | | 0 | not measured | | | |")
            continue
        cells = [_figure([one[key] for one in found]) for key in ("all", "many", "medium", "few")]
        lines.append(
            f"| {name} | {minutes or '-'} | {arm} | {found[0]['epochs']} | {len(found)} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _figure(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speeds", "cells", "table"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/budget.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs/budget"))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.what == "speeds":
        measure_speeds(asked.out, asked.data, asked.runs)
    elif asked.what == "cells":
        do_cells(asked.out, asked.data, asked.runs)
    else:
        print(table(asked.out))


if __name__ == "__main__":
    main()
