"""Maps of collections: time, trustworthiness, and accuracy of classes on the map. Each command prints one row.

    python benchmarks/speed/projection.py --features features.npz [--count 3000] [--steps 250 500] [--two-levels]
    python benchmarks/speed/projection.py --features features.npz --method umap --peers DIR

The file has `features` (N, D) and `labels` (N,), as written by `benchmarks/speed/neighbors_scale.py features` and
`benchmarks/evidence/rarity_features.py`. `--peers DIR` is a folder of libraries that are not dependencies (`pip install
--target DIR umap-learn pacmap`). All methods except PaCMAP start from the same 15 nearest neighbors. Trustworthiness is
scikit-learn's (15 neighbors, up to 5,000 images), accuracy is that of 10 nearest neighbors on the map (five folds).
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from sdclr.features import projection
from sdclr.features.nearest import Neighbors, nearest

K = 15


def by_sdclr(options: argparse.Namespace, _features: NDArray[np.float32], near: Neighbors) -> NDArray[np.float32]:
    projection._GATHERING, projection._SPREADING = options.steps  # noqa: SLF001
    if options.two_levels:
        projection.PLACED_AT_ONCE = 0
    return projection.project(near)


def by_umap(_options: argparse.Namespace, features: NDArray[np.float32], near: Neighbors) -> NDArray[np.float32]:
    import umap  # noqa: PLC0415  # a peer, found through --peers

    # umap's neighbor lists start with the image itself.
    own = np.arange(len(features))[:, None]
    indices = np.concatenate([own, near.indices.numpy()[:, : K - 1]], axis=1)
    distances = np.concatenate([np.zeros((len(own), 1), np.float32), near.distances.numpy()[:, : K - 1]], axis=1)
    known = (indices, distances, None)
    found = umap.UMAP(n_neighbors=K, metric="cosine", precomputed_knn=known, random_state=0, n_jobs=1)
    return np.asarray(found.fit_transform(features))


def by_pacmap(_options: argparse.Namespace, features: NDArray[np.float32], _near: Neighbors) -> NDArray[np.float32]:
    import pacmap  # noqa: PLC0415  # a peer, found through --peers

    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(pacmap.PaCMAP(random_state=0).fit_transform(rows))


METHODS: dict[str, Callable[[argparse.Namespace, NDArray[np.float32], Neighbors], NDArray[np.float32]]] = {
    "sdclr": by_sdclr,
    "umap": by_umap,
    "pacmap": by_pacmap,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--method", choices=METHODS, default="sdclr")
    parser.add_argument("--count", type=int, help="images; by default all")
    parser.add_argument("--steps", type=int, nargs=2, default=[100, 200], help="of the two phases")
    parser.add_argument("--two-levels", action="store_true", help="as for large collections")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peers is not None:
        sys.path.append(str(options.peers))
    file = np.load(options.features)
    chosen = np.random.default_rng(0).permutation(len(file["labels"]))[: options.count]
    features, labels = file["features"][chosen], file["labels"][chosen]
    near = nearest(features, K)
    load = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    places = METHODS[options.method](options, features, near)
    row = {
        "method": options.method,
        "images": len(features),
        "s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "load": round(load, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "accuracy": round(float(cross_val_score(KNeighborsClassifier(10), places, labels, cv=5).mean()), 4),
    }
    if len(features) <= 5000:
        row["trustworthiness"] = round(float(trustworthiness(features, places, n_neighbors=K, metric="cosine")), 4)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
