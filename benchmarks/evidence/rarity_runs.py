"""Train the encoders of the comparison of rarity scores: SimCLR and SDCLR on CIFAR-10-LT, short and long.

    python benchmarks/evidence/rarity_runs.py --data $SDCLR_DATA/data/cifar10 --runs runs/rarity [--share 0/2]

Resumes after an interruption. Two processes can divide the runs with `--share`.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from sdclr.data.sources import Source, SubsetSource, open_source
from sdclr.encoders import EncoderConfig
from sdclr.longtail.splits import LongTailSplit, long_tail_split
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim_config import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run
from sdclr.views.config import ViewConfig

MAX_COUNT = 1500
ORDERS = (1, 2, 3, 4, 5)
IMBALANCES = (100, 50, 10)
EPOCHS = {"long": 40, "short": 10}
METHODS = {"simclr": DamageConfig(kind="none"), "sdclr": DamageConfig(ratio=0.5)}


class Trained(NamedTuple):
    """One encoder of the comparison."""

    imbalance: int
    order: int
    method: str
    length: str

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"if{self.imbalance}-order{self.order}-{self.method}-{self.length}"


def matrix() -> Iterator[Trained]:
    """All encoders, one class order after the other, so that an incomplete set can be compared."""
    for order in ORDERS:
        for length in EPOCHS:
            for imbalance in IMBALANCES:
                for method in METHODS:
                    yield Trained(imbalance, order, method, length)


def split_of(train: Source, trained: Trained) -> LongTailSplit:
    """The training subset of an encoder, with the number of images of each class."""
    if train.labels is None:
        raise ValueError(f"{train.name} has no labels")
    drawn = {"max_count": MAX_COUNT, "imbalance": trained.imbalance, "seed": trained.order}
    return long_tail_split(train.labels, **drawn, few_shot_fraction=0.001)  # the rarest class has 15 images


def subset_of(train: Source, trained: Trained) -> Source:
    """The training images of an encoder."""
    name = f"cifar10-if{trained.imbalance}-order{trained.order}"
    return SubsetSource(train, split_of(train, trained).long_tail, name=name)


def config_of(trained: Trained) -> PretrainConfig:
    """Quarter-width ResNet-18 at 16 px, with small batches, so that a few thousand images give many steps."""
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18", stem="small", width=16),
        views=ViewConfig(image_size=16),
        damage=METHODS[trained.method],
        optim=OptimConfig(lr=0.125, warmup_epochs=EPOCHS[trained.length] / 10),
        batch_size=128,
        epochs=EPOCHS[trained.length],
    )


def train_all(data: Path, runs: Path, share: tuple[int, int]) -> None:
    """Train a share of the encoders, without the finished ones."""
    train = open_source(data, split="train")
    for trained in list(matrix())[share[0] :: share[1]]:
        if not Run(runs / trained.name).finished:
            runtime = Runtime(progress=False, log_steps=1000)
            pretrain(subset_of(train, trained), config_of(trained), run=runs / trained.name, runtime=runtime)
            print(trained.name, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--share", default="0/1", help="which part of the runs, of how many")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    first, step = (int(part) for part in options.share.split("/"))
    train_all(options.data, options.runs, (first, step))


if __name__ == "__main__":
    main()
