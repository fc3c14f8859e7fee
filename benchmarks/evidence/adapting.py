"""Does adapting a pretrained encoder to one's own long-tailed images help, and does self-damage add to it?

    python benchmarks/evidence/adapting.py run --data DIR --runs runs/adapting --part 0/1
    python benchmarks/evidence/adapting.py table

DIR holds `cifar10` (Parquet), `clothing` (folders train and test) and `emoji` (see emoji.py). `run` finishes the cells
(collection, arm, seed) that docs/results/adapting.jsonl lacks, the most valuable first; an interrupted cell resumes.
`table` writes docs/results/adapting_tables.md and the tables of docs/results/leaderboard.md from the records, without
training. The protocol, and what would count as a yes, are in docs/results/adapting.md; they were written before the
runs.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import nn

import adapting_tables
from adapting_tables import FEW_LABELS
from budget import Collection, collection
from emoji import emoji
from judge import append, features_of, few_shot, linear, rare, records
from preparing import Prepare, distilled, halfway, head_first, prepared
from sdclr.data.sources import Source, SubsetSource, open_source
from sdclr.encoders import DEFAULT, load_encoder
from sdclr.mining.kind_weights import kind_weights as kind_weights_of
from sdclr.mining.kinds import find_kinds
from sdclr.training.config import PretrainConfig
from sdclr.training.defaults import default_config
from sdclr.training.pretrain import pretrain
from sdclr.training.runtime import Runtime

RECORDS: Final = Path("docs/results/adapting.jsonl")
SIZE: Final = 64
LARGE: Final = 128
EPOCHS: Final = 4
LONGER: Final = 3
"""Factor on the epochs of the longer runs."""
LAYER_DECAY: Final = 0.75

Change = Callable[[PretrainConfig], PretrainConfig]


def damaged(ratio: float | str) -> Change:
    """Prune so much of the twin."""
    return lambda config: replace(config, damage=replace(config.damage, kind="prune", ratio=ratio))


def plain(config: PretrainConfig) -> PretrainConfig:
    """SimCLR."""
    return replace(config, damage=replace(config.damage, kind="none"))


def dense(config: PretrainConfig) -> PretrainConfig:
    """SimCLR with density-guided sampling, from the first epoch on and anew in each."""
    return replace(plain(config), rebalance=("density",), density=replace(config.density, start=0.0, every=1))


def curated(config: PretrainConfig) -> PretrainConfig:
    """SimCLR with sampling that is uniform over a tree of clusters, as often as density."""
    return replace(plain(config), rebalance=("curation",), curation=replace(config.curation, start=0.0, every=1))


def shuffled(config: PretrainConfig) -> PretrainConfig:
    """The control of curation: its weights, randomly permuted over the images."""
    made = curated(config)
    return replace(made, curation=replace(made.curation, control="shuffled"))


def spread_out(config: PretrainConfig) -> PretrainConfig:
    """SimCLR with the KoLeo term."""
    return replace(plain(config), rebalance=("koleo",))


def decayed(config: PretrainConfig) -> PretrainConfig:
    """SimCLR with a lower learning rate for the layers near the input."""
    return replace(plain(config), optim=replace(config.optim, layer_decay=LAYER_DECAY))


def longer(config: PretrainConfig) -> PretrainConfig:
    """SimCLR with more epochs and one cosine over all of them."""
    return replace(plain(config), epochs=LONGER * config.epochs)


def with_outside(control: Literal["none", "random"]) -> Change:
    """SimCLR with half as many outside images as own ones, chosen anew in each epoch but the first."""
    return lambda config: replace(
        plain(config),
        rebalance=("outside",),
        outside=replace(config.outside, budget=0.5, start=1 / config.epochs, every=1, control=control),
    )


def at_rate(rate: float, change: Change = plain) -> Change:
    """Another learning rate."""
    return lambda config: replace(change(config), optim=replace(config.optim, lr=rate))


def training_only(part: Literal["last-stage", "norms"], change: Change = plain) -> Change:
    """Train a part of the encoder."""
    return lambda config: replace(change(config), trainable=part)


ARMS: Final[dict[str, Change | None]] = {
    "frozen": None,
    "SimCLR": plain,
    "SimCLR, another seed": lambda config: replace(plain(config), seed=config.seed + 100),
    "SDCLR 0.3": damaged(0.3),
    "SDCLR 0.5": damaged(0.5),
    "SDCLR 0.9": damaged(0.9),
    "SDCLR adaptive": damaged("adaptive"),
    "SimCLR + density": dense,
    "SimCLR, another order": plain,
    "SimCLR + kinds": plain,
    "SimCLR + kinds, permuted weights": plain,
    "SimCLR, rate 0.002": at_rate(0.002),
    "SDCLR 0.3, rate 0.002": at_rate(0.002, damaged(0.3)),
    "SDCLR 0.5, rate 0.002": at_rate(0.002, damaged(0.5)),
    "SimCLR, last stage": training_only("last-stage"),
    "SimCLR, norms": training_only("norms"),
    "SDCLR 0.3, norms": training_only("norms", damaged(0.3)),
    "SimCLR, last stage, rate 0.002": at_rate(0.002, training_only("last-stage")),
    "SimCLR + curation": curated,
    "SimCLR + curation, shuffled": shuffled,
    "SimCLR + KoLeo": spread_out,
    "SimCLR, head first": plain,
    "SimCLR, distilled": plain,
    "SimCLR, halfway": plain,
    "SDCLR 0.3, halfway": damaged(0.3),
    "SimCLR, layer decay": decayed,
    "SimCLR, 12 epochs": longer,
    "SimCLR + outside": with_outside("none"),
    "SimCLR + random outside": with_outside("random"),
    f"frozen{adapting_tables.LARGER}": None,
    f"SimCLR{adapting_tables.LARGER}": plain,
}
DISTILLED: Final = 10.0
"""Weight of the distance to the frozen features. The loss of SimCLR is between 1 and 5 here, a distance below 0.5."""
FIRST: Final = (
    "frozen",
    "SimCLR",
    "SimCLR, another seed",
    "SDCLR 0.3",
    "SDCLR 0.5",
    "SimCLR + density",
    "SimCLR, another order",
)
HALFWAY: Final = ", halfway"
KINDS: Final = ("SimCLR + kinds", "SimCLR + kinds, permuted weights")
"""Not on CIFAR-10-LT, which is one kind, so that all weights are equal."""
SECOND: Final = (
    "SimCLR, halfway",
    "SimCLR, rate 0.002",
    "SimCLR, norms",
    "SimCLR, last stage",
    "SimCLR + curation",
    "SimCLR, head first",
    "SimCLR, distilled",
    "SDCLR 0.3, rate 0.002",
    "SDCLR 0.9",
    "SDCLR adaptive",
    "SimCLR + KoLeo",
)
LARGER: Final = (f"frozen{adapting_tables.LARGER}", f"SimCLR{adapting_tables.LARGER}")
ON_EMOJI: Final = ("SimCLR", "SimCLR + kinds", "SimCLR + kinds, permuted weights", "SimCLR + curation", "frozen")
"""On emoji, which no setting and no arm was chosen on."""
MORE: Final = ("SimCLR", "SimCLR + kinds", "SimCLR, another seed", "SimCLR + kinds, permuted weights", "frozen")
"""On emoji, with three more seeds."""
OUTSIDE_IMAGES: Final = 6000
"""At most so many outside images to choose from."""
THIRD: Final = ("SimCLR + curation", "SimCLR + KoLeo")
"""Arms with the best first run on both collections."""
FOURTH: Final = ("SimCLR + outside", "SimCLR + random outside", "SimCLR, layer decay")
SHUFFLED: Final = "SimCLR + curation, shuffled"
CELLS: Final = [
    *(("emoji", arm, seed) for seed in (1, 2, 3) for arm in ON_EMOJI),
    *(("cifar", arm, seed) for seed in (1, 2, 3) for arm in FIRST),
    *(("clothing", arm, seed) for seed in (1, 2, 3) for arm in FIRST),
    *(("clothing", arm, seed) for seed in (1, 2, 3) for arm in KINDS),
    *((name, arm, 1) for arm in SECOND for name in ("cifar", "clothing")),
    *((name, arm, seed) for seed in (2, 3) for arm in THIRD for name in ("cifar", "clothing")),
    *(("clothing", arm, seed) for seed in (4, 5, 6) for arm in ("SimCLR + kinds", "SimCLR")),
    *((name, SHUFFLED, seed) for seed in (1, 2, 3) for name in ("cifar", "clothing")),
    *(("emoji", arm, seed) for arm in ("SimCLR, another seed", "SDCLR 0.3") for seed in (1, 2, 3)),
    *(("emoji", arm, seed) for seed in (4, 5, 6) for arm in MORE),
    *(("clothing", arm, seed) for arm in ("frozen", "SimCLR, another seed") for seed in (4, 5, 6)),
    *((name, arm, seed) for seed in (1, 2) for name in ("cifar", "clothing") for arm in LARGER),
    *((name, arm, seed) for seed in (1, 2) for arm in FOURTH for name in ("cifar", "clothing")),
    *((name, arm, 3) for name in ("cifar", "clothing") for arm in LARGER),
    *((name, "SimCLR, 12 epochs", seed) for seed in (1, 2) for name in ("cifar", "clothing")),
    *(("clothing", arm, seed) for seed in (4, 5, 6) for arm in (*FIRST, *KINDS, *THIRD)),
    *((name, arm, seed) for seed in (2, 3) for arm in SECOND for name in ("cifar", "clothing")),
]
"""Collection, arm, seed (class order of CIFAR-10-LT; random numbers of the run), the most valuable first."""


def settings(change: Change, source: Source, seed: int, size: int) -> PretrainConfig:
    """The automatic settings of `--start` at this size, with what the arm changes."""
    config = default_config(source, gpu=False, start=DEFAULT)
    config = replace(config, views=replace(config.views, image_size=size), seed=seed, epochs=EPOCHS)
    return change(config)


def kind_weights(source: Source, seed: int, *, permuted: bool) -> NDArray[np.float64]:
    """Each kind alike, up to a cap; as a control, the same weights randomly permuted.

    The kinds are those of `sdclr mine`, in the frozen features at the encoder's own size. At 64 px no kind is separate.
    """
    encoder = load_encoder()
    features = torch.from_numpy(features_of(encoder, source, encoder.image_size)[0])
    kinds = find_kinds(features)
    weights = kind_weights_of(kinds.labels)
    return np.random.default_rng(seed).permutation(weights) if permuted else weights


def scores_of(encoder: nn.Module, images: Collection, other: Collection, size: int) -> dict[str, float]:
    """Accuracies in percent, AUROC of the rare classes, and the accuracy on the other collection."""
    train, held, test = (
        features_of(encoder, source, size) for source in (images.probe, images.probe_validation, images.test)
    )
    scores = linear(train, held, test, images.counts)
    scores["validation"] = scores.pop("held")
    scale = StandardScaler().fit(train[0])
    x, judged = scale.transform(train[0]), scale.transform(test[0])
    for labels in FEW_LABELS:
        scores[f"{labels} labels"] = few_shot((x, train[1]), (judged, test[1]), labels)
    scores |= rare(*features_of(encoder, images.train, size), images.counts)
    there = [features_of(encoder, source, size) for source in (other.probe, other.probe_validation, other.test)]
    scores["other set"] = linear(*there, other.counts)["All"]
    return {name: round(value, 4 if "AUROC" in name else 2) for name, value in scores.items()}


def run(data: Path, runs: Path, part: int, parts: int) -> None:
    """Finish this part's cells."""
    for name, arm, seed in list(dict.fromkeys(CELLS))[part::parts]:
        if any((one["collection"], one["arm"], one["seed"]) == (name, arm, seed) for one in records(RECORDS)):
            continue
        images = emoji(data, seed) if name == "emoji" else collection(name, data, seed, max_count=1000, judged=3000)
        other = collection("clothing" if name == "cifar" else "cifar", data, 1, max_count=1000, judged=3000)
        begin, change = time.process_time(), ARMS[arm]
        size = LARGE if arm in LARGER else SIZE
        if change is None:
            encoder: nn.Module = load_encoder(image_size=size)
        else:
            outside = outside_images(name, data) if "outside" in arm else None
            config = settings(change, images.train, seed, size)
            encoder = adapted(arm, config, images.train, runs, f"{name}-{seed}", outside=outside)
        spent = round(time.process_time() - begin)
        cell = {"collection": name, "arm": arm, "seed": seed, "cpu_seconds": spent}
        append(RECORDS, cell | scores_of(encoder, images, other, size))


def outside_images(name: str, data: Path) -> Source:
    """Images of the other collection: clothing photos for CIFAR-10-LT, some of all CIFAR-10 images for clothing."""
    if name == "cifar":
        return open_source(str(data / "clothing" / "train"))
    every = open_source(str(data / "cifar10"), split="train")
    return SubsetSource(every, np.sort(np.random.default_rng(0).choice(len(every), OUTSIDE_IMAGES, replace=False)))


def adapted(
    arm: str, config: PretrainConfig, images: Source, runs: Path, cell: str, *, outside: Source | None
) -> nn.Module:
    """The encoder of an arm, trained as `config` says."""
    trained_as = arm.removesuffix(HALFWAY)  # the run of the arm without it, if there is one
    folder = runs / f"{cell}-{trained_as}".replace(", ", "-").replace(" ", "-")
    how = Runtime(device="cpu", workers=0, amp="none", progress=False, checkpoint_minutes=1, threads=1)
    weights = None
    if arm in KINDS:
        weights = kind_weights(images, config.seed, permuted="permuted" in arm)
    elif "another order" in arm:
        weights = np.ones(len(images))  # weighted sampling draws its own order
    prepare: Prepare = lambda _: None  # noqa: E731
    if "head first" in arm:
        prepare = head_first(images, config, folder.with_name(f"{folder.name}-head"), how)
    elif "distilled" in arm:
        prepare = distilled(DISTILLED)
    with prepared(prepare):
        encoder = pretrain(images, config, run=folder, runtime=how, weights=weights, outside=outside).encoder()
    return halfway(load_encoder(image_size=SIZE), encoder) if arm.endswith(HALFWAY) else encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/adapting"))
    parser.add_argument("--part", default="0/1", help="0/2 and 1/2 share the cells between two processes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "table":
        adapting_tables.write(records(RECORDS), ARMS)
        return
    part, parts = map(int, given.part.split("/"))
    run(given.data, given.runs, part, parts)


if __name__ == "__main__":
    main()
