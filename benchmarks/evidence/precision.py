"""Effect of bfloat16 on accuracy: pairs of equal runs in float32 and bfloat16.

    python benchmarks/evidence/precision.py train  --data $SDCLR_DATA/data/cifar10 --out docs/results/precision.jsonl
    python benchmarks/evidence/precision.py report --out docs/results/precision.jsonl

Sets, networks and evaluation are those of `arms.py`. The two runs of a pair share images, class order, initial weights,
views and learning rates. A third run in float32 with another seed shows the effect of chance. The decision rule was
written before the first run; see `docs/results/precision.md`. Runs in the file are not repeated.
"""

import argparse
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from arms import Place, read, run_one
from sdclr.choices import Amp
from sdclr.training.config import DamageConfig, PretrainConfig

EPOCHS = {"cifar10": 40, "digits": 120}
METHODS = {"simclr": DamageConfig(kind="none"), "sdclr": DamageConfig(ratio=0.5)}
KINDS: dict[str, Amp] = {"float32": "none", "bf16": "bf16", "float32-again": "none"}
"""Precision of each run of a triple; `-again` has another seed."""
MEASURES = (("linear", "all"), ("few_shot", "all"), ("few_shot", "few"), ("knn", "all"))
HARM = 0.5
"""Minimum mean loss of accuracy in points that counts as harm; it must also exceed twice its standard error."""


def configure(made: PretrainConfig, arm: str) -> PretrainConfig:
    """The method of an arm `METHOD-KIND`."""
    return replace(made, damage=METHODS[arm.partition("-")[0]])


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pairs = itertools.product(options.splits, options.methods, ("float32", "bf16"))
    controls = itertools.product(options.splits, options.methods, ("float32-again",))
    for split, method, kind in [*pairs, *controls]:
        arm = f"{method}-{kind}"
        if (options.set, arm, split) in {(row["set"], row["arm"], row["split"]) for row in read(options.out)}:
            continue
        place = Place(
            data=options.data if options.set == "cifar10" else None,
            amp=KINDS[kind],
            device="cpu",
            width=16,
            epochs=EPOCHS[options.set],
            arm=arm,
            split=split,
        )
        row = run_one(place, configure, lambda *_: None)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Mean differences from float32 within pairs, with standard errors, as a Markdown table."""
    found: dict[tuple[str, str], dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        method, _, kind = row["arm"].partition("-")
        found[row["set"], method][kind][row["split"]] = row
    heads = [f"{probe.replace('_', '-')} {measure}" for probe, measure in MEASURES]
    lines = ["| " + " | ".join(["set", "method", "difference to float32", "pairs", *heads]) + " |"]
    lines.append("|---" * (4 + len(heads)) + "|")
    for (name, method), kinds in found.items():
        for kind, label in (("bf16", "bfloat16"), ("float32-again", "float32, other seed")):
            splits = sorted(kinds[kind].keys() & kinds["float32"].keys())
            cells = []
            for probe, measure in MEASURES:
                pairs = [
                    kinds[kind][split][probe][measure] - kinds["float32"][split][probe][measure] for split in splits
                ]
                cells.append(_with_error(pairs))
            lines.append("| " + " | ".join([name, method, label, str(len(splits)), *cells]) + " |")
    return "\n".join(lines)


def _with_error(pairs: Sequence[float]) -> str:
    """Mean and standard error; bold if the loss counts as harm."""
    if len(pairs) < 2:
        return ""
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5
    text = f"{mean:+.2f} ± {error:.2f}"
    return f"**{text}**" if mean < -max(HARM, 2 * error) else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "report"))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--set", choices=EPOCHS, default="cifar10")
    parser.add_argument("--splits", type=int, nargs="+", default=[1, 2, 3], help="class orders, and seeds")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, required=True, help="file of the rows")
    options = parser.parse_args()
    if options.command == "train":
        if options.set == "cifar10" and options.data is None:
            parser.error("--set cifar10 needs --data, the folder of CIFAR-10")
        train(options)
    print(report(read(options.out)))


if __name__ == "__main__":
    main()
