"""What does each way of damaging cost or gain, over widths and lengths of training?

    python benchmarks/adaptive.py train  --data $SDCLR_DATA/data/cifar10 --set cifar10 --widths 16 --epochs 40 \
        --splits 1 2 --arms simclr simclr-again 0 0.5 0.5-statistics adaptive --out runs/adaptive.jsonl
    python benchmarks/adaptive.py report --out runs/adaptive.jsonl

Sets: `cifar10`, a long tail of 4,300 images at 16 px (at most 1,500 a class, imbalance 50; batch 128, lr 0.125), and
`digits`, the demonstration's 280 images. Each arm is SimCLR or its self-damaging form:

- `simclr`, and `simclr-again`, the same with another seed: what two equal runs differ by;
- a number: that pruning ratio with normalisation of its own, the paper's form. `0` prunes nothing, so that what it
  costs is the price of the second normalisation alone;
- `-statistics`: with statistics of its own and weight and bias shared;
- `ramp-0.8`, `cyclic-0.8`: schedules; `several-0.3-0.6-0.9`: that many competitors;
- `adaptive`: by the generalisation gap, at gain 2, with statistics of its own.

What it should show, written before it ran: adaptive is at least SimCLR - 0.3 points on linear All at every width and
length, since it prunes nothing where there is no gap; fixed heavy ratios lose in narrow and short runs; where there is
a gap, damage lowers few-shot Std. A run that is in the file is not run again.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdclr.data.longtail import long_tail_split
from sdclr.data.published import paper_split
from sdclr.data.sources import Source, SubsetSource, digits
from sdclr.demo import DRAWS, IMBALANCE, MAX_COUNT, SHOTS
from sdclr.evaluation.evaluate import EvaluateConfig, Result, evaluate
from sdclr.paper.experiments import Setting, pretraining
from sdclr.recipes import digits_demo
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run

KEY = ("set", "width", "epochs", "arm", "split")
MEASURES = (("linear", "all"), ("linear", "std"), ("few_shot", "all"), ("few_shot", "few"), ("few_shot", "std"))


def damage(arm: str) -> DamageConfig:
    """What an arm's name says."""
    name, _, rest = arm.partition("-")
    if name == "simclr":
        return DamageConfig(kind="none")
    if name == "adaptive":
        return DamageConfig(ratio="adaptive", independent_norm=rest == "own" or "statistics")
    if name in {"ramp", "cyclic"}:
        return DamageConfig(ratio=float(rest), schedule="ramp" if name == "ramp" else "cyclic")
    if name == "several":
        first, *others = map(float, rest.split("-"))
        return DamageConfig(ratio=first, also=tuple(others))
    return DamageConfig(ratio=float(name), independent_norm="statistics" if rest == "statistics" else True)


def configured(made: PretrainConfig, arm: str, *, width: int, epochs: int, split: int) -> PretrainConfig:
    warmup = min(made.optim.warmup_epochs, epochs / 10)
    return replace(
        made,
        damage=damage(arm),
        encoder=replace(made.encoder, width=width),
        epochs=epochs,
        optim=replace(made.optim, warmup_epochs=warmup),
        seed=split + 100 * arm.endswith("-again"),
    )


def run_one(args: argparse.Namespace, arm: str, *, width: int, epochs: int, split: int) -> dict[str, Any]:
    """Train and evaluate one arm."""
    with tempfile.TemporaryDirectory() as folder:
        trained, result = (on_digits if args.set == "digits" else on_cifar)(
            args, arm, Path(folder) / "run", width=width, epochs=epochs, split=split
        )
        pruned = [row["pruned"] for row in trained.metrics() if "pruned" in row]
    scores = {probe: getattr(result, probe).balance._asdict() for probe in ("linear", "few_shot", "knn")}
    return dict(zip(KEY, (args.set, width, epochs, arm, split), strict=True)) | {"pruned": pruned[-1:], **scores}


def on_digits(
    args: argparse.Namespace, arm: str, folder: Path, *, width: int, epochs: int, split: int
) -> tuple[Run, Result]:
    train, test = digits("train"), digits("test")
    drawn = long_tail_split(
        np.asarray(train.labels), max_count=MAX_COUNT, imbalance=IMBALANCE, seed=split, few_shot_fraction=0
    )
    source: Source = SubsetSource(train, drawn.long_tail, name=f"digits-{split}")
    config = configured(digits_demo(), arm, width=width, epochs=epochs, split=split)
    run = pretrain(source, config, run=folder, runtime=Runtime(device="cpu", amp=args.amp, progress=False))
    return run, evaluate(run, train, test, EvaluateConfig(shots=SHOTS, draws=DRAWS, seed=split))


def on_cifar(
    args: argparse.Namespace, arm: str, folder: Path, *, width: int, epochs: int, split: int
) -> tuple[Run, Result]:
    drawn = paper_split("cifar10_lt", args.data, split=split, max_count=1500, imbalance=50)
    made = pretraining("cifar10_lt", "long-tail", "sdclr", Setting(epochs=epochs), split)
    made = replace(made, batch_size=128, optim=replace(made.optim, lr=0.125))
    config = configured(made, arm, width=width, epochs=epochs, split=split)
    runtime = Runtime(device="cpu", amp=args.amp, progress=False, workers=0)
    run = pretrain(drawn.long_tail, config, run=folder, runtime=runtime)
    result = evaluate(
        run, drawn.full, drawn.test, EvaluateConfig(seed=0), validation=drawn.validation, few_shot=drawn.few_shot
    )
    return run, result


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {tuple(row[name] for name in KEY) for row in read(args.out)}
    for split in args.splits:
        for width in args.widths:
            for epochs in args.epochs:
                for arm in args.arms:
                    if (args.set, width, epochs, arm, split) in done:
                        continue
                    row = run_one(args, arm, width=width, epochs=epochs, split=split)
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Means over splits, and differences to SimCLR of the same split with their standard error."""
    found: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        found[row["set"], row["width"], row["epochs"], row["arm"]][row["split"]] = row
    heads = [f"{probe.replace('_', '-')} {measure}" for probe, measure in MEASURES]
    lines = ["| set | width | epochs | arm | splits | pruned | " + " | ".join(heads) + " |", "|---" * 11 + "|"]
    for (name, width, epochs, arm), by_split in found.items():
        plain = found.get((name, width, epochs, "simclr"), {})
        cells = []
        for probe, measure in MEASURES:
            mean = statistics.fmean(row[probe][measure] for row in by_split.values())
            pairs = [
                by_split[split][probe][measure] - plain[split][probe][measure] for split in by_split if split in plain
            ]
            gain = f" ({statistics.fmean(pairs):+.2f}" if pairs and arm != "simclr" else ""
            if gain and len(pairs) > 1:
                gain += f" ± {statistics.stdev(pairs) / len(pairs) ** 0.5:.2f}"
            cells.append(f"{mean:.2f}{gain}{')' if gain else ''}")
        ends = [value for row in by_split.values() for value in row["pruned"]]
        pruned = f"{statistics.fmean(ends):.2f}" if ends else ""
        lines.append(
            f"| {name} | {width} | {epochs} | {arm} | {len(by_split)} | {pruned} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "report"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--set", choices=("cifar10", "digits"), default="cifar10")
    parser.add_argument("--widths", type=int, nargs="+", default=[16])
    parser.add_argument("--epochs", type=int, nargs="+", default=[40])
    parser.add_argument("--splits", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", default=["simclr", "0.5", "adaptive"])
    parser.add_argument("--amp", choices=("auto", "none"), default="auto")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "train":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        train(args)
    print(report(read(args.out)))


if __name__ == "__main__":
    main()
