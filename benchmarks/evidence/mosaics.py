"""SimCLR and SDCLR on mosaics of CIFAR-10 images, whose attributes (the classes in the mosaic) are long-tailed.

Expectation, written before the first run: probes by attribute work from end to end. On balanced test mosaics each
attribute has the same base rate, 34 %, so groups can be compared. Trained encoders must be better than an untrained
one, and that one better than the base rate. A run takes minutes, far too short to distinguish SDCLR from SimCLR: a
difference of one or two points in either direction is expected. Different classes are rare in each class order, so the
results do not show the effect of rarity on a class.

    python benchmarks/evidence/mosaics.py --data $SDCLR_DATA/data/cifar10 --runs runs/mosaics
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sdclr.data.sources import open_source
from sdclr.encoders import EncoderConfig
from sdclr.evaluation.attributes import AttributeResult, evaluate_attributes
from sdclr.evaluation.config import AttributeConfig
from sdclr.longtail.mosaics import MosaicSource, mosaics
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim_config import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.views.config import ViewConfig

SIMCLR = PretrainConfig(
    encoder=EncoderConfig(name="resnet18", stem="small", width=16),
    views=ViewConfig(image_size=32, crop_scale=(0.3, 1.0)),  # two smaller crops would often have no tile in common
    damage=DamageConfig(kind="none"),
    optim=OptimConfig(lr=0.125, warmup_epochs=1),  # the paper's 0.5 for a batch of 512
    batch_size=128,
    epochs=10,
)
ARMS = {
    # One epoch at a negligible learning rate: random weights, with normalization statistics of the images.
    "untrained": replace(SIMCLR, epochs=1, optim=OptimConfig(lr=1e-12, final_lr=0.0, warmup_epochs=0)),
    "simclr": SIMCLR,
    "sdclr-0.3": replace(SIMCLR, damage=DamageConfig(ratio=0.3)),
}


def evaluated(
    arm: str, runs: Path, sets: tuple[MosaicSource, MosaicSource, MosaicSource], *, epochs: int, size: int, seed: int
) -> AttributeResult:
    """Pre-train on long-tailed mosaics, train probes on balanced ones, and test on balanced ones of test images."""
    train, labeled, test = sets
    views = replace(SIMCLR.views, image_size=size)
    config = replace(ARMS[arm], views=views, seed=seed, epochs=1 if arm == "untrained" else epochs)
    run = pretrain(train, config, run=runs / f"{arm}-{seed}", runtime=Runtime(progress=False, amp="none"))
    counts = dict(zip(train.attribute_names, train.attributes.sum(axis=0, dtype=int).tolist(), strict=True))
    return evaluate_attributes(labeled, test, AttributeConfig(draws=3), encoder=run, attribute_counts=counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--count", type=int, default=4000, help="mosaics of each set")
    parser.add_argument("--imbalance", type=float, default=50.0, help="of the mosaics that are trained on")
    parser.add_argument("--epochs", type=int, default=10, help="of the trained encoders")
    parser.add_argument("--size", type=int, default=32, help="side in pixels at which mosaics are seen")
    parser.add_argument("--seed", type=int, default=1, help="decides class order, mosaics and weights")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="which of the arms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, unseen = open_source(options.data, split="train"), open_source(options.data, split="test")
    train = mosaics(images, options.count, imbalance=options.imbalance, seed=options.seed, name="train")
    labeled = mosaics(images, options.count, imbalance=1, seed=options.seed + 1000, name="labeled")
    test = mosaics(unseen, options.count, imbalance=1, seed=options.seed + 2000, name="test")
    print("positives", dict(zip(train.attribute_names, train.attributes.sum(axis=0, dtype=int).tolist(), strict=True)))
    for arm in options.arms:
        result = evaluated(
            arm, options.runs, (train, labeled, test), epochs=options.epochs, size=options.size, seed=options.seed
        )
        print(f"{arm}: base rate {result.base_rate.all:.1f}")
        for kind, score in (("linear", result.linear), ("few-shot", result.few_shot)):
            for figure, groups in (("AP", score.balance), ("AUROC", score.auroc_balance)):
                cells = "  ".join(f"{name} {value:5.2f}" for name, value in groups._asdict().items())
                print(f"  {kind:8} {score.details['images']:5} images  {figure:5} {cells}", flush=True)
        print(
            "  linear AP", dict(zip(result.names, np.round(result.linear.average_precision, 1).tolist(), strict=True))
        )


if __name__ == "__main__":
    main()
