"""Approximate nearest neighbors, for collections for which an exact search would take hours.

Vectors are grouped by their nearest k-means center (an inverted file: Jégou, Douze and Schmid, TPAMI 2011), and a query
is compared only with the vectors of the nearest centers. `faiss` does the search, with vectors in half precision. The
returned distances are computed from the features themselves. On one machine the result is deterministic, unlike with
graph indices built by several threads (`docs/results/neighbors.md` compares them).
"""

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.choices import Metric
from sdclr.errors import InputError
from sdclr.features.extract import checked_features
from sdclr.features.nearest import Neighbors, nearest
from sdclr.out_of_memory import return_freed_memory
from sdclr.progress import Update, stage

EXACT_UP_TO: Final = 200_000
"""Up to this number, all images are compared with all. Fewer queries are compared with more images, at equal work."""

PROBES: Final = 64
"""Number of centers whose vectors are compared with a query."""

RECALL_QUERIES: Final = 1000
"""Number of queries for measuring recall."""

_CENTERS: Final = 4.0
"""Number of centers divided by the square root of the number of vectors."""
_TRAINING: Final = 40
"""Training vectors of k-means for each center: faiss warns below 39."""
_ROUNDS: Final = 5
"""Iterations of k-means: doubling this and `_TRAINING` improves recall by less than 0.01."""
_CHUNK: Final = 16_384
"""Number of vectors converted at once."""


def find_neighbors(
    features: ArrayLike | Tensor,
    k: int,
    *,
    queries: ArrayLike | Tensor | None = None,
    metric: Metric = "cosine",
    approximate: bool | None = None,
) -> Neighbors:
    """The k nearest neighbors of each query: exact if feasible, otherwise approximate.

    Args:
        features: (N, D), on any device.
        k: Neighbors per query.
        queries: (Q, D). By default the features themselves, none of which is its own neighbor.
        metric: `cosine` is 1 minus the cosine, in [0, 2]; `euclidean` is the distance of the unchanged features.
        approximate: Whether to search approximately. By default on a CPU above 200,000 images, or as many comparisons
            of queries with images; see `is_approximate`. On a GPU the search is exact.

    Returns:
        Distances (Q, k) and indices (Q, k) on the features' device, nearest first. Distances are exact. An approximate
        search can miss a few neighbors and return farther ones instead; `sample_recall` measures how many.

    Raises:
        InputError: The features are invalid, or there are fewer than k candidates.

    Example:
        >>> near = find_neighbors(torch.rand(500, 16), 15)
        >>> near.indices.shape
        torch.Size([500, 15])
    """
    base = checked_features(features, "features")
    asked = None if queries is None else checked_features(queries, "queries", width=base.shape[1]).to(base.device)
    if approximate is None:
        approximate = is_approximate(base, len(base) if asked is None else len(asked))
    if not approximate:
        return nearest(base, k, queries=asked, metric=metric)
    candidates = len(base) - (asked is None)
    if not 1 <= k <= candidates:
        raise InputError(f"k={k} neighbors of {candidates} images: choose k from 1 to {candidates}")
    return _approximate(base, k, asked, metric)


def is_approximate(features: Tensor, queries: int) -> bool:
    """Whether `find_neighbors` searches features (N, D) approximately for this number of queries."""
    return features.device.type == "cpu" and len(features) * queries > EXACT_UP_TO**2


def sample_recall(
    features: ArrayLike | Tensor, neighbors: Neighbors, *, metric: Metric = "cosine", seed: int = 0
) -> float:
    """Fraction of the true nearest neighbors that were found, estimated by an exact search for 1,000 images.

    Args:
        features: (N, D).
        neighbors: Neighbors of all features among themselves.
        metric: Metric of the search.
        seed: Determines which images are drawn.

    Returns:
        Recall in [0, 1]. Neighbors at the same distance as the last one count as found.
    """
    base = checked_features(features, "features")
    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(base))[:RECALL_QUERIES])
    k = neighbors.indices.shape[1]
    found = neighbors.distances.cpu()[drawn]
    with stage("measuring the recall of the search"):
        true = _others(_nearest_in_parts(base, k + 1, base[drawn], metric), drawn)
    limit = true.distances[:, -1:] + 1e-6  # float32's rounding
    return float((found <= limit).float().mean())


def _nearest_in_parts(base: Tensor, k: int, queries: Tensor, metric: Metric) -> Neighbors:
    """`nearest` for few queries, in parts, to avoid a copy of all features."""
    parts = []
    for begin in range(0, len(base), EXACT_UP_TO):
        part = base[begin : begin + EXACT_UP_TO]
        found = nearest(part, min(k, len(part)), queries=queries, metric=metric)
        parts.append(Neighbors(found.distances, found.indices + begin))
    distances, order = torch.cat([part.distances for part in parts], dim=1).sort(dim=1, stable=True)
    indices = torch.cat([part.indices for part in parts], dim=1).gather(1, order)
    return Neighbors(distances[:, :k], indices[:, :k])


def _approximate(base: Tensor, k: int, queries: Tensor | None, metric: Metric) -> Neighbors:
    # Faiss takes a moment to import, and small collections do not need it.
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    with stage(f"building an index of {len(base):,} images", len(base)) as update:
        index = _index(faiss, base, metric, update)
    asked = base if queries is None else queries
    distances = torch.empty(len(asked), k)
    indices = torch.empty(len(asked), k, dtype=torch.int32 if len(base) < 2**31 else torch.int64)
    done = 0
    with stage("searching neighbors", len(asked)) as update:
        for rows in _by_center(index, asked, metric):
            part = asked[rows]
            _, places = index.search(_prepared(part, metric), k + (queries is None))
            known = torch.from_numpy(places)
            # If the searched lists hold too few vectors, places are missing (-1).
            short = (known < 0).any(dim=1)
            if short.any():
                known[short] = nearest(base, known.shape[1], queries=part[short], metric=metric).indices
            found = _measured(base, part, known, metric)
            if queries is None:
                found = _others(found, rows)
            distances[rows], indices[rows] = found.distances, found.indices.to(indices.dtype)
            done += len(rows)
            update(done)
    del index
    return_freed_memory()
    return Neighbors(distances, indices)


def _index(faiss: Any, base: Tensor, metric: Metric, update: Update) -> Any:
    """An index of the vectors in half precision, grouped by center."""
    count, width = base.shape
    centers = max(1, min(round(_CENTERS * math.sqrt(count)), count // _TRAINING))
    product = metric == "cosine"
    kind = faiss.METRIC_INNER_PRODUCT if product else faiss.METRIC_L2
    coarse = faiss.IndexFlatIP(width) if product else faiss.IndexFlatL2(width)
    index = faiss.IndexIVFScalarQuantizer(coarse, width, centers, faiss.ScalarQuantizer.QT_fp16, kind, False)
    index.cp.niter, index.cp.seed, index.cp.spherical = _ROUNDS, 0, product
    index.nprobe = PROBES
    drawn = np.random.default_rng(0).permutation(count)[: centers * _TRAINING]
    index.train(_prepared(base[torch.from_numpy(np.sort(drawn))], metric))
    for begin in range(0, count, _CHUNK):
        index.add(_prepared(base[begin : begin + _CHUNK], metric))
        update(min(begin + _CHUNK, count))
    return index


def _prepared(rows: Tensor, metric: Metric) -> NDArray[np.float32]:
    array: NDArray[np.float32] = (F.normalize(rows) if metric == "cosine" else rows).cpu().contiguous().numpy()
    return array


def _by_center(index: Any, asked: Tensor, metric: Metric) -> list[Tensor]:
    """Rows of the queries in chunks. Queries of one center are consecutive, because they read the same vectors."""
    centers = np.empty(len(asked), dtype=np.int64)
    for begin in range(0, len(asked), _CHUNK):
        part = asked[begin : begin + _CHUNK]
        centers[begin : begin + len(part)] = index.quantizer.search(_prepared(part, metric), 1)[1][:, 0]
    order = torch.from_numpy(np.argsort(centers, kind="stable"))
    return [order[begin : begin + _CHUNK] for begin in range(0, len(order), _CHUNK)]


def _measured(base: Tensor, queries: Tensor, places: Tensor, metric: Metric) -> Neighbors:
    """Distances of rows to queries in float32, nearest first."""
    columns = []
    for column in places.unbind(dim=1):
        if metric == "cosine":
            columns.append((1 - F.cosine_similarity(queries, base[column])).clamp_(min=0))
        else:
            columns.append(torch.linalg.vector_norm(queries - base[column], dim=1))
    distances, order = torch.stack(columns, dim=1).sort(dim=1, stable=True)
    return Neighbors(distances, places.gather(1, order))


def _others(found: Neighbors, own: Tensor) -> Neighbors:
    """Remove one neighbor of each query: the query itself, whose row is in `own`, or else the last one."""
    itself = found.indices == own[:, None].to(found.indices.device)
    itself[~itself.any(dim=1), -1] = True
    shape = (len(own), found.indices.shape[1] - 1)
    return Neighbors(found.distances[~itself].view(shape), found.indices[~itself].view(shape))
