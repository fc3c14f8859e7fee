"""Features of the collections of `selection_pretrained.py` under the default encoder, cached in a folder.

    python benchmarks/evidence/selection_features.py --data $SDCLR_DATA/data/cifar10 \
        --clothing $SDCLR_DATA/data/clothing --cache features

Writes `digits.npz`, `clothing.npz` and `cifar10.npz` with `train` (N, D) and `test` (M, D) float32 features, their
classes `train_y` and `test_y`, and their positions in the set, `train_at` and `test_at`. Of CIFAR-10 only the training
images of the long tails of `ORDERS` and every second test image are encoded. Preprocessing is that of `sdclr mine`.
Existing files are kept.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import cifar10_lt
from sdclr.data.sources import Source, SubsetSource, digits, open_source
from sdclr.features.extract import extract_features
from sdclr.training.resolve import resolve_encoder

ORDERS = (1, 2, 3, 4)
"""Class orders of CIFAR-10-LT."""

Parts = dict[str, tuple[Source, NDArray[np.int64]]]
"""Training and test images, each with the positions to encode."""


def whole(open_part: Callable[[str], Source]) -> Parts:
    """All images of a set."""
    sources = {split: open_part(split) for split in ("train", "test")}
    return {split: (source, np.arange(len(source))) for split, source in sources.items()}


def cifar_parts(folder: Path) -> Parts:
    """The images of the long tails, and every second test image."""
    train, test = open_source(folder, split="train"), open_source(folder, split="test")
    used = np.unique(np.concatenate([cifar10_lt.drawn(train, order).long_tail for order in ORDERS]))
    return {"train": (train, used), "test": (test, np.arange(0, len(test), 2))}


def cache_features(name: str, parts: Parts, folder: Path) -> Path:
    """Write the features of both parts of a set, unless the file exists."""
    file = folder / f"{name}.npz"
    if file.is_file():
        return file
    columns = {}
    for part, (source, positions) in parts.items():
        used = resolve_encoder(None, source)
        asked = SubsetSource(source, positions)
        found = extract_features(used.encoder, asked, preprocessing=used.preprocessing, batch_size=64)
        columns[part] = found.values
        columns[f"{part}_at"] = positions[found.kept]
        columns[f"{part}_y"] = np.asarray(source.labels)[positions[found.kept]].astype(np.int64)
        print(f"{name}, {part}: {len(found.values)} images at {used.preprocessing.image_size} px", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **columns)
    partial.rename(file)
    return file


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--clothing", type=Path, required=True, help="folder of the clothing photos")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the features")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cache_features("digits", whole(digits), options.cache)
    cache_features("clothing", whole(lambda split: open_source(options.clothing, split=split)), options.cache)
    cache_features("cifar10", cifar_parts(options.data), options.cache)


if __name__ == "__main__":
    main()
