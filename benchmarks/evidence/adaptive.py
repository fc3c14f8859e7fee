"""Effect of each type of damage, for several widths and lengths of training.

    python benchmarks/evidence/adaptive.py train  --data $SDCLR_DATA/data/cifar10 --set cifar10 --widths 16 \
        --epochs 40 --splits 1 2 --arms simclr simclr-again 0 0.5 0.5-statistics adaptive --out runs/adaptive.jsonl
    python benchmarks/evidence/adaptive.py report --out runs/adaptive.jsonl

Sets and pairs are those of `arms.py`. Each arm is SimCLR or its self-damaging form:

- `simclr`, and `simclr-again`, the same with another seed, for the difference between equal runs; `simclr-held`,
  trained without a tenth of the images, like adaptive;
- a number: that pruning ratio with separate normalization, the paper's form. `0` prunes nothing and shows the cost of
  the separate normalization alone;
- `-statistics`: separate statistics, shared weight and bias;
- `adaptive`: ratio by the generalization gap, at gain 2, with separate statistics.

Expectation, written before the first run: adaptive is at least SimCLR - 0.3 points on linear All at every width and
length, because it prunes nothing without a gap. Fixed heavy ratios lose in narrow and short runs. With a gap, damage
lowers few-shot Std.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import arms
from sdclr.data.sources import Source
from sdclr.method import AdaptiveRatio
from sdclr.training.config import DamageConfig, PretrainConfig


def damage(arm: str) -> DamageConfig:
    """The damage of an arm, from its name."""
    name, _, rest = arm.partition("-")
    if name == "simclr":
        return DamageConfig(kind="none")
    if name == "adaptive":
        return DamageConfig(ratio="adaptive", independent_norm=rest == "own" or "statistics")
    return DamageConfig(ratio=float(name), independent_norm="statistics" if rest == "statistics" else True)


def weigh(arm: str, source: Source) -> NDArray[np.float64] | None:
    return AdaptiveRatio(len(source)).sampling.numpy() if arm == "simclr-held" else None


def configure(config: PretrainConfig, arm: str) -> PretrainConfig:
    return replace(config, damage=damage(arm))


if __name__ == "__main__":
    arms.main(__doc__, ("simclr", "0.5", "adaptive"), configure, weigh)
