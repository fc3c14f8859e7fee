"""Time of a selection by method: 500 of 50,000 and of 100,000 images with 1,280 features.

    python benchmarks/speed/selection_speed.py --images 50000 100000

Prints CPU seconds of one thread, which hardly depend on other load. Features are synthetic: 300 close clouds of
decreasing size. Rarity and kinds are given, as in `sdclr select`.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.mining.selection import select_samples

METHODS = ("k_center", "typicality", "coverage", "mixed", "kinds")
WIDTH, CLOUDS, BUDGET = 1280, 300, 500


def made_features(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N, 1280) features and the cloud of each image."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, CLOUDS + 1)
    cloud = rng.choice(CLOUDS, count, p=shares / shares.sum())
    centers = rng.standard_normal((CLOUDS, WIDTH), dtype=np.float32)
    features = rng.standard_normal((count, WIDTH), dtype=np.float32)
    features += 0.7 * centers[cloud] + 1.0
    return np.maximum(features, 0, out=features), cloud  # like features of networks, not negative


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[50_000, 100_000])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for count in options.images:
        features, cloud = made_features(count)
        kinds = np.where(cloud < CLOUDS // 2, 0, cloud - CLOUDS // 2 + 1)
        rarity = np.random.default_rng(0).random(count)
        for method in options.methods:
            start = time.process_time()
            select_samples(torch.from_numpy(features), rarity, BUDGET, method=method, kinds=kinds)
            print(f"{BUDGET} of {count:,}, {method}: {time.process_time() - start:.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    main()
