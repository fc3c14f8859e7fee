"""Comparison of scores that find images of a class without counterpart in the old collection.

    python benchmarks/evidence/new_kinds.py --data $SDCLR_DATA/data --cache runs/new_kinds --out new_kinds.md

One class is held out. Old images are only of the other classes. The new images are 380 of the other classes and 20 of
the held-out class. Features are those of the default encoder. Each score ranks the new images without labels.

- clothing: 3,068 photos of garments, each of the ten classes held out in turn; all images that are not new are old;
- CIFAR-10: the first 5,000 training images at 96 px, with the classes airplane, cat and ship.

Scores: the mean cosine distance to the 1, 5 and 10 nearest old images; and the mean distance to the 10 nearest old
images divided by the mean distance of these old images to their own 10 nearest old ones (ratio). Each is also measured
with the images of new kinds first, as in `sdclr mine NEW --against OLD`. Controls: `sdclr mine NEW` without old images
(kinds, and distance to 10 neighbors), and a random order. Metrics: AUROC of the held-out class, and precision among the
first 20, over five draws of the new images.

The rule, written before the first run: the default is the plain score with the highest AUROC, averaged over the ten
classes of clothing and the draws. Among scores within 0.005 of it, the one with the highest precision is chosen, and
among equal ones the one with the fewest neighbors. New kinds come first unless that lowers the mean precision of that
score on clothing.

The results of each draw are cached.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

import sdclr
from sdclr.data.sources import SubsetSource, open_source
from sdclr.features.embeddings import read_embeddings
from sdclr.features.nearest import nearest
from sdclr.files import read_json, write_json
from sdclr.mining.against import nearest_old, new_kinds
from sdclr.mining.kinds import find_kinds, kind_rarity

FEW: Final = 20
OTHERS: Final = 380
DRAWS: Final = 5
CIFAR_IMAGES: Final = 5000
HELD_OUT: Final = {"clothing": None, "CIFAR-10": ("airplane", "cat", "ship")}


def embedded(name: str, data: Path, cache: Path) -> tuple[torch.Tensor, NDArray[np.int64], tuple[str, ...]]:
    """(N, D) features, (N,) labels and the classes' names."""
    source = open_source(data / "clothing") if name == "clothing" else open_source(data / "cifar10", split="train")
    if name != "clothing":
        drawn = np.random.default_rng(0).permutation(len(source))[:CIFAR_IMAGES]  # the files are sorted by class
        source = SubsetSource(source, np.sort(drawn))
    file = cache / f"{name}.parquet"
    if not file.exists():
        sdclr.embed(source, file, batch_size=64, image_size=None if name == "clothing" else 96)
    features = torch.from_numpy(read_embeddings(file).of(source.ids, name))
    return features, np.asarray(source.labels), source.classes


def rankings(new: torch.Tensor, old: torch.Tensor, seed: int) -> dict[str, NDArray[Any]]:
    """(N,) values by the name of each score; larger values mean a larger difference from the old images."""
    near = nearest_old(new, old)
    of_old = nearest(old, 10).distances.mean(dim=1)
    far = {f"{k} nearest": near.distances[:, :k].mean(dim=1) for k in (1, 5, 10)}
    far["ratio"] = near.distances.mean(dim=1) / of_old[near.indices].mean(dim=1).clamp_min(1e-6)
    among = nearest(new, 15)
    kinds = find_kinds(new, neighbors=among)
    leading = new_kinds(kinds, among, near)
    plain = {name: values.numpy() for name, values in far.items()}
    combined = {
        f"{name}, new kinds first": kind_rarity(kinds, values, leading=leading) for name, values in plain.items()
    }
    alone = among.distances[:, :10].mean(dim=1).numpy()
    controls = {
        "mine NEW alone": kind_rarity(kinds, alone),
        "distance in NEW alone": alone,
        "random": np.random.default_rng(seed).random(len(new)),
    }
    return plain | combined | controls


def measured(scores: NDArray[Any], wanted: NDArray[np.bool_]) -> tuple[float, float]:
    """AUROC, and precision among the first `FEW`."""
    ranks, positive = rankdata(scores), int(wanted.sum())
    area = (ranks[wanted].sum() - positive * (positive + 1) / 2) / (positive * int((~wanted).sum()))
    return float(area), float(wanted[np.argsort(-scores, kind="stable")[:FEW]].mean())


def draw(features: torch.Tensor, labels: NDArray[np.int64], held_out: int, seed: int) -> dict[str, list[float]]:
    """AUROC and precision of each score on one draw of the new images."""
    rng = np.random.default_rng(seed)
    others = rng.permutation(np.flatnonzero(labels != held_out))
    few = rng.permutation(np.flatnonzero(labels == held_out))[:FEW]
    new, old = np.concatenate([few, others[:OTHERS]]), others[OTHERS:]
    wanted = np.arange(len(new)) < FEW
    found = rankings(features[new], features[old], seed)
    order = rng.permutation(len(new))  # for equal scores, the position must not reveal the class
    return {name: list(measured(scores[order], wanted[order])) for name, scores in found.items()}


def table(results: dict[str, dict[str, list[list[float]]]], title: str) -> str:
    """Mean over classes ± deviation between classes, then AUROC by class."""
    names = list(next(iter(results.values())))
    lines = [f"### {title}", "", "| score | AUROC | precision at 20 |", "|---|---|---|"]
    for name in names:
        by_class = np.array([np.mean(found[name], axis=0) for found in results.values()])
        cells = [
            f"{mean:.3f} ± {std:.3f}" for mean, std in zip(by_class.mean(axis=0), by_class.std(axis=0), strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"AUROC / precision at 20 by class, mean ± standard deviation over {DRAWS} draws:", ""]
    shown = [name for name in names if "kinds first" not in name or name.startswith("1 nearest")]
    lines += [f"| class | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for held_out, found in results.items():
        both = [(np.mean(found[name], axis=0), np.std(found[name], axis=0)) for name in shown]
        cells = [f"{m[0]:.3f} ± {s[0]:.3f} / {m[1]:.2f} ± {s[1]:.2f}" for m, s in both]
        lines.append(f"| {held_out} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure draws that are not in the cache, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with clothing/ and cifar10/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, chosen in HELD_OUT.items():
        features, labels, classes = embedded(name, args.data, args.cache)
        results: dict[str, dict[str, list[list[float]]]] = {}
        for held_out in chosen or classes:
            number = classes.index(held_out)
            found = [
                cached(args.cache / f"{name}-{held_out}-{seed}.json", partial(draw, features, labels, number, seed))
                for seed in range(DRAWS)
            ]
            results[held_out] = {score: [one[score] for one in found] for score in found[0]}
        parts.append(table(results, name))
        args.out.write_text("\n".join(parts))


def cached(file: Path, make: Callable[[], dict[str, list[float]]]) -> dict[str, Any]:
    """The contents of a JSON file, which is created if it is missing."""
    if not file.exists():
        write_json(file, make())
    return read_json(file)


if __name__ == "__main__":
    main()
