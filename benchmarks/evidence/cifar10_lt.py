"""SimCLR and SDCLR on CIFAR-10-LT at a size for CPUs, over several class orders, with a balanced control.

Expectation, written before the first run: the question is whether self-damage helps the rare classes of a narrow
network in a short run. The paper's gain was measured with a full ResNet-18 over 2000 epochs. At a quarter of the width
and a fiftieth of the epochs SDCLR should lose some accuracy, more with a larger ratio. The balanced control shows
whether a low Few accuracy comes from rarity or from hard classes.

    python benchmarks/evidence/cifar10_lt.py train --data $SDCLR_DATA/data/cifar10 --runs runs/cifar10-lt
    python benchmarks/evidence/cifar10_lt.py report --data $SDCLR_DATA/data/cifar10 --runs runs/cifar10-lt \
        --out docs/results

`train` resumes after an interruption. Two processes can divide the runs (`--share 0/2`, `--share 1/2`). With `--amp
bf16 --arms simclr sdclr-0.5` and a separate folder it measures the effect of mixed precision. Differences from float32
are expected to stay within the deviation over class orders.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import Source, SubsetSource, open_source
from sdclr.encoders import EncoderConfig
from sdclr.evaluation.config import EvaluateConfig
from sdclr.evaluation.evaluate import evaluate
from sdclr.files import read_json
from sdclr.longtail.splits import LongTailSplit, long_tail_split
from sdclr.reporting.figures import group_bars, save_figure
from sdclr.reporting.tables import balance_table, balances
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim_config import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.views.config import ViewConfig

Precision = Literal["none", "bf16"]
SPLITS = (1, 2, 3)
ARMS = {
    "simclr": DamageConfig(kind="none"),
    "sdclr-0.5": DamageConfig(ratio=0.5),
    "sdclr-0.2": DamageConfig(ratio=0.2),
    "simclr-balanced": DamageConfig(kind="none"),
}


def config(damage: DamageConfig) -> PretrainConfig:
    """Quarter-width ResNet-18 at 16 px; all settings except size, batch and length as in the paper."""
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18", stem="small", width=16),
        views=ViewConfig(image_size=16),
        damage=damage,
        optim=OptimConfig(lr=0.25, warmup_epochs=4),  # the paper's 0.5 for a batch of 512
        batch_size=256,
        epochs=40,
    )


def drawn(train: Source, split: int) -> LongTailSplit:
    pool, _ = train_validation_split(train.labels, validation=5000, seed=0)
    return long_tail_split(train.labels, max_count=4500, imbalance=100, seed=split, pool=pool)


def pretrain_all(data: Path, runs: Path, *, arms: Sequence[str], share: tuple[int, int], amp: Precision) -> None:
    train = open_source(data, split="train")
    matrix = [(split, arm) for split in SPLITS for arm in arms]
    for split, arm in matrix[share[0] :: share[1]]:
        subset = drawn(train, split)
        indices = subset.balanced if arm.endswith("balanced") else subset.long_tail
        source = SubsetSource(train, indices, name=f"cifar10-lt-{split}" if arm != "simclr-balanced" else "cifar10-b")
        runtime = Runtime(progress=False, log_steps=1000, amp=amp)
        run = pretrain(source, config(ARMS[arm]), run=runs / f"{arm}-split{split}", runtime=runtime)
        print(run.path, flush=True)


def evaluate_all(data: Path, runs: Path) -> dict[str, list[dict]]:
    """Probe every finished run on the whole balanced training set; groups are those of the split's long tail."""
    train, test = open_source(data, split="train"), open_source(data, split="test")
    found: dict[str, list[dict]] = {}
    for arm in ARMS:
        for split in SPLITS:
            run = Run(runs / f"{arm}-split{split}")
            result = run.results / "dense.json"
            if not run.finished:
                continue
            if not result.exists():
                counts = drawn(train, split).counts
                evaluate(train, test, EvaluateConfig(seed=split), encoder=run, class_counts=counts)
            found.setdefault(arm, []).append(read_json(result))
            print(run.path, {name: round(v, 2) for name, v in found[arm][-1]["linear"]["balance"].items()}, flush=True)
    return found


def report(data: Path, runs: Path, out: Path) -> None:
    found = evaluate_all(data, runs)
    out.mkdir(parents=True, exist_ok=True)
    titles = {
        "linear": "Linear probe, 45,000 labels",
        "few_shot": "Few-shot probe, 45 labels a class",
        "knn": "kNN, k = 200",
    }
    tables = [balance_table(balances(found, score), title=title).markdown() for score, title in titles.items()]
    (out / "cifar10_lt_tables.md").write_text("\n".join(tables))
    (out / "cifar10_lt.json").write_text(json.dumps({"commit": commit(), "results": found}, indent=1) + "\n")
    draw(found, out)


def draw(found: dict[str, list[dict]], out: Path) -> None:
    """Accuracy by group, as bars."""
    for score in ("few_shot", "linear"):
        save_figure(group_bars(balances(found, score)), out / f"cifar10_lt_{score}")


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "report"])
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="which of the arms")
    parser.add_argument("--amp", choices=get_args(Precision), default="none", help="mixed precision")
    parser.add_argument("--share", default="0/1", help="which part of the runs, of how many")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of tables and figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, step = (int(part) for part in options.share.split("/"))
    if options.command == "train":
        pretrain_all(options.data, options.runs, arms=options.arms, share=(first, step), amp=options.amp)
    else:
        report(options.data, options.runs, options.out)


if __name__ == "__main__":
    main()
