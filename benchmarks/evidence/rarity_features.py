"""Features of the collections in the comparison of rarity scores, cached in a folder.

    python benchmarks/evidence/rarity_features.py --data DIR --clothing DIR \
        --cache features [--held-out features_heldout]
    python benchmarks/evidence/rarity_features.py --data DIR --clothing DIR --cache features --runs runs/contest

The second command trains encoders from scratch, too. Each file `COLLECTION@ENCODER.npz` contains `features` (N, D)
float32, `labels` (N,) int64 (-1 is junk), `rare`, `junk` and `copy` (N,) bool, `ids` (N,), `family`, `form` and
`held_out`. A second file `.forgetting.npy` (N,) is written for plain collections and the pretrained encoder. Held-out
collections are written to the folder of `--held-out`, or left out. Existing files are kept.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from collections_for_rarity import FORMS, Collection, Pools, Recipe, in_form, recipes
from rarity_runs import Trained, config_of
from sdclr.data.sources import ArraySource
from sdclr.encoders import Preprocessing, load_encoder
from sdclr.features.extract import evaluation_view
from sdclr.mining.forgetting import forgetting, pruned_copies
from sdclr.recipes import digits_demo
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.pretrain import pretrain

PRUNED = 0.3
BATCH_PIXELS = 64 * 96 * 96
"""Pixels per batch; more would only cost memory."""
OTHER_SIZE = {
    "digits-tight": 224,
    "clothing": 96,
    "separated-photos-a": 96,
    "separated-objects-a": 96,
    "separated-figures-a": 224,
}
"""Collections that are encoded at a second input size, in plain form."""

TRAINED_ON_CIFAR = ("cifar-if100-order1", "cifar-if100-order3")
"""Collections of CIFAR images on which an encoder is trained; all collections of digits have one."""


@dataclass
class Encoder:
    """A frozen network at one input size, which encodes each distinct image once.

    Attributes:
        name: Name for files.
        network: Maps (N, 3, S, S) in [0, 1] to (N, D).
        size: S.
    """

    name: str
    network: nn.Module
    size: int
    seen: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Features (N, D)."""
        keys = [hashlib.blake2b(image.tobytes() + str(image.shape).encode()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self.seen}
        for names, batch in _batches(new, max(1, BATCH_PIXELS // self.size**2)):
            views = np.stack([evaluation_view(image, Preprocessing(image_size=self.size)) for image in batch])
            tensor = torch.from_numpy(views).permute(0, 3, 1, 2).float().div(255).contiguous()
            with torch.inference_mode():
                self.seen |= dict(zip(names, self.network(tensor).float().numpy(), strict=True))
        return np.stack([self.seen[key] for key in keys])


def _batches(
    images: dict[bytes, NDArray[np.uint8]], size: int
) -> Iterator[tuple[list[bytes], list[NDArray[np.uint8]]]]:
    names = list(images)
    for start in range(0, len(names), size):
        yield names[start : start + size], [images[name] for name in names[start : start + size]]


def cache_collection(collection: Collection, encoder: Encoder, folder: Path) -> Path:
    """Write one collection's features, unless the file exists."""
    file = folder / f"{collection.name}@{encoder.name}.npz"
    if file.is_file():
        return file
    columns: dict[str, Any] = {
        "features": encoder(collection.images),
        "labels": collection.labels,
        "rare": collection.rare,
        "junk": collection.junk,
        "copy": collection.copy,
        "ids": np.array(collection.ids),
        "family": collection.family,
        "form": collection.form,
        "held_out": collection.held_out,
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **columns)
    partial.rename(file)
    return file


def cache_forgetting(collection: Collection, twin: Encoder, features_file: Path) -> None:
    """Write the change of each image's features by pruning, unless the file exists."""
    file = features_file.with_suffix(".forgetting.npy")
    if not file.is_file():
        dense = torch.from_numpy(np.load(features_file)["features"])
        np.save(file, forgetting(dense, torch.from_numpy(twin(collection.images))).numpy())


def cache_all(pools: Pools, folders: dict[bool, Path], *, family: str = "") -> None:
    """Features of every collection in every form by the pretrained encoder.

    Args:
        pools: Sets from which collections are drawn.
        folders: Folders by whether a collection is held out.
        family: Only families whose name starts with this text.
    """
    network = load_encoder()
    encoders = {size: Encoder(f"lite0-{size}", network, size) for size in (96, 224)}
    wanted = [recipe for recipe in recipes(pools) if recipe.held_out in folders and recipe.family.startswith(family)]
    for recipe in wanted:
        start, folder, plain = time.monotonic(), folders[recipe.held_out], recipe.plain()
        for form in FORMS:
            collection = in_form(plain, form)
            cache_collection(collection, encoders[collection.input_size], folder)
        if recipe.name in OTHER_SIZE:
            cache_collection(plain, encoders[OTHER_SIZE[recipe.name]], folder)
        print(f"{recipe.name}: {len(plain.images)} images, {time.monotonic() - start:.1f} s", flush=True)
    twin = pruned_copies(network, [PRUNED]).pruned[PRUNED].encoder
    twins = {size: Encoder("pruned", twin, size) for size in (96, 224)}
    for recipe in wanted:
        plain = recipe.plain()
        file = folders[recipe.held_out] / f"{plain.name}@{encoders[plain.input_size].name}.npz"
        cache_forgetting(plain, twins[plain.input_size], file)


def cache_trained(pools: Pools, folders: dict[bool, Path], runs: Path) -> None:
    """Train encoders on plain collections of digits and some of CIFAR, and write their features of every form."""
    for recipe in recipes(pools):
        config = _config(recipe)
        if config is None or recipe.held_out not in folders:
            continue
        plain = recipe.plain()
        source = ArraySource(np.stack(plain.images), ids=plain.ids, name=recipe.name)
        runtime = Runtime(device="cpu", amp="none", progress=False)
        run = pretrain(source, config, run=runs / recipe.name, runtime=runtime)
        encoder = Encoder("own", run.encoder().eval(), config.views.image_size)
        for form in FORMS:
            cache_collection(in_form(plain, form), encoder, folders[recipe.held_out])
        print(f"{recipe.name}: trained on {len(plain.images)} images", flush=True)


def _config(recipe: Recipe) -> PretrainConfig | None:
    if recipe.family == "digits":
        return replace(digits_demo(), seed=1)
    return config_of(Trained(100, 1, "sdclr", "short")) if recipe.name in TRAINED_ON_CIFAR else None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--clothing", type=Path, required=True, help="folder of the clothing photos")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the features")
    parser.add_argument("--held-out", type=Path, help="folder of the features of collections that are kept back")
    parser.add_argument("--runs", type=Path, help="train encoders into this folder, instead of the pretrained one")
    parser.add_argument("--family", default="", help="only families whose name starts so")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folders = {False: options.cache} | ({} if options.held_out is None else {True: options.held_out})
    pools = Pools(options.data, options.clothing)
    if options.runs is None:
        cache_all(pools, folders, family=options.family)
    else:
        cache_trained(pools, folders, options.runs)


if __name__ == "__main__":
    main()
