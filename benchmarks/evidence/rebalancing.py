"""What does each rebalancer do for rare classes, beside its controls?

    python benchmarks/evidence/rebalancing.py train  --set digits --epochs 120 --splits 1 2 3 4 --amp none \
        --out runs/rarer.jsonl
    python benchmarks/evidence/rebalancing.py report --out runs/rarer.jsonl

Sets and pairs are those of `arms.py`. Arms are SimCLR with one rebalancer; put `sdclr-` before one to prune half of the
weights as well (`sdclr` alone is that without a rebalancer). Density comes in strengths, by the effective share of
images that it leaves (`density-0.3`). Controls: `shuffled` deals the same weights out at random, `clusters` takes the
inverse size of k-means clusters, `oracle` draws by labels, `memorization-constant` gives every image the same strength,
`joint` is the learning rate that harmonisation was published with, and nothing else.

What it should show, written before it ran: density draws more of the Few classes and raises few-shot Few; shuffled
weights do not; the oracle is the bound. Rebalancers that need long to settle are even with SimCLR in so short a run.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import arms
from sdclr.data.sources import Source
from sdclr.method.rebalancing import CurationConfig, DensityConfig, MemorizationConfig
from sdclr.paper.runner import balancing_weights
from sdclr.training.config import DamageConfig, PretrainConfig

ARMS = (
    "simclr",
    "simclr-again",
    "density-0.5",
    "density-0.3",
    "density-0.2",
    "shuffled-0.3",
    "clusters-0.3",
    "oracle",
    "temperature",
    "memorization",
    "memorization-constant",
    "harmonization",
    "joint",
    "individual_temperature",
    "focal",
    "koleo",
    "curation-0.1",
    "curation-flat-0.1",
    "curation-shuffled-0.1",
    "sdclr",
    "sdclr-density-0.3",
)


def density(kind: str, effective: float) -> DensityConfig:
    """What a kind of density-guided training is set to."""
    controls: dict[str, Literal["none", "shuffled", "clusters"]] = {
        "density": "none",
        "shuffled": "shuffled",
        "clusters": "clusters",
    }
    return DensityConfig(effective=effective, control=controls[kind])


def configure(config: PretrainConfig, arm: str) -> PretrainConfig:
    method, name = (
        ("sdclr", arm.removeprefix("sdclr").removeprefix("-")) if arm.startswith("sdclr") else ("simclr", arm)
    )
    config = replace(config, damage=DamageConfig(ratio=0.5) if method == "sdclr" else DamageConfig(kind="none"))
    name, _, rest = name.partition("-")
    if name in {"", "simclr", "oracle"}:
        return config
    if name == "joint":
        return replace(config, optim=replace(config.optim, joint=0.5, joint_lr=0.6 * config.optim.lr))
    if name == "memorization":
        memorization = MemorizationConfig(constant=0.5 if rest == "constant" else None)
        return replace(config, rebalance=("memorization",), memorization=memorization)
    if name == "curation":
        kind, _, share = rest.rpartition("-")
        control, levels = ("shuffled" if kind == "shuffled" else "none"), (1 if kind == "flat" else 2)
        curation = CurationConfig(share=float(share), levels=levels, control=control)
        return replace(config, rebalance=("curation",), curation=curation)
    if name in {"temperature", "harmonization", "individual_temperature", "focal", "koleo"}:
        return replace(config, rebalance=(name,))
    return replace(config, rebalance=("density",), density=density(name, float(rest)))


def weigh(arm: str, source: Source) -> NDArray[np.float64] | None:
    return balancing_weights(source) if arm.endswith("oracle") else None


if __name__ == "__main__":
    arms.main(__doc__, ARMS, configure, weigh)
