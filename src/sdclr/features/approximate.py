"""Nearest neighbors of collections for which an exact search would take hours.

Vectors are gathered around centers found by k-means (an inverted file: Jégou, Douze and Schmid, TPAMI 2011), and a
query is compared with those of the nearest centers only. `faiss` computes it. Its vectors are kept in half precision.
The distances that come back are computed from the features themselves, and what comes back is the same every time on
one machine, which graph indices built by several threads are not (`docs/results/neighbors.md` compares them).
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
from sdclr.features.nearest import Neighbours, nearest
from sdclr.out_of_memory import return_freed_memory
from sdclr.progress import Update, stage

EXACT_UP_TO: Final = 200_000
"""Images up to which all are compared with all. Fewer queries are compared with more images, at equal work."""

PROBES: Final = 64
"""Centers whose vectors a query is compared with."""

RECALL_QUERIES: Final = 1000
"""Queries that recall is measured on."""

_CENTERS: Final = 4.0
"""Centers for each square root of the number of vectors."""
_TRAINING: Final = 40
"""Vectors that k-means sees for each center: faiss warns of fewer than 39."""
_ROUNDS: Final = 5
"""Rounds of k-means: twice as much of both gains less than a hundredth of recall."""
_CHUNK: Final = 16_384
"""Vectors converted at once."""


def find_neighbors(
    features: ArrayLike | Tensor,
    k: int,
    *,
    queries: ArrayLike | Tensor | None = None,
    metric: Metric = "cosine",
    approximate: bool | None = None,
) -> Neighbours:
    """The k nearest neighbors of each query: exact where that is feasible, else approximate.

    Args:
        features: (N, D), on any device.
        k: Neighbors of a query.
        queries: (Q, D). By default the features themselves, none of which is its own neighbor.
        metric: `cosine` is 1 minus the cosine, in [0, 2]; `euclidean` the distance of the features as they are.
        approximate: Whether to search approximately. By default on a processor from 200,000 images on, or as many
            comparisons of queries with images; `is_approximate` tells. GPUs compare all.

    Returns:
        Distances (Q, k) and indices (Q, k) on the features' device, nearest first. Distances are exact; a few neighbors
        may be missing from an approximate search, and farther ones stand in their place. `sample_recall` tells how
        many.

    Raises:
        InputError: Features that cannot be used, or fewer than k that could be neighbors.

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
    """Whether `find_neighbors` searches features (N, D) approximately for so many queries."""
    return features.device.type == "cpu" and len(features) * queries > EXACT_UP_TO**2


def sample_recall(
    features: ArrayLike | Tensor, neighbors: Neighbours, *, metric: Metric = "cosine", seed: int = 0
) -> float:
    """Share of the true nearest neighbors that are among those found, by 1,000 images and an exact search.

    Args:
        features: (N, D).
        neighbors: Of all of them among themselves.
        metric: How they were found.
        seed: Decides which images are drawn.

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


def _nearest_in_parts(base: Tensor, k: int, queries: Tensor, metric: Metric) -> Neighbours:
    """`nearest` for few queries, part by part, so that no copy of all features is made."""
    parts = []
    for begin in range(0, len(base), EXACT_UP_TO):
        part = base[begin : begin + EXACT_UP_TO]
        found = nearest(part, min(k, len(part)), queries=queries, metric=metric)
        parts.append(Neighbours(found.distances, found.indices + begin))
    distances, order = torch.cat([part.distances for part in parts], dim=1).sort(dim=1, stable=True)
    indices = torch.cat([part.indices for part in parts], dim=1).gather(1, order)
    return Neighbours(distances[:, :k], indices[:, :k])


def _approximate(base: Tensor, k: int, queries: Tensor | None, metric: Metric) -> Neighbours:
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
            # Lists that hold too few vectors leave places open.
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
    return Neighbours(distances, indices)


def _index(faiss: Any, base: Tensor, metric: Metric, update: Update) -> Any:
    """The vectors, in half precision, around their centers."""
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
    """Rows of the queries, chunk by chunk. Those of one center follow each other, as they read the same vectors."""
    centers = np.empty(len(asked), dtype=np.int64)
    for begin in range(0, len(asked), _CHUNK):
        part = asked[begin : begin + _CHUNK]
        centers[begin : begin + len(part)] = index.quantizer.search(_prepared(part, metric), 1)[1][:, 0]
    order = torch.from_numpy(np.argsort(centers, kind="stable"))
    return [order[begin : begin + _CHUNK] for begin in range(0, len(order), _CHUNK)]


def _measured(base: Tensor, queries: Tensor, places: Tensor, metric: Metric) -> Neighbours:
    """Distances of rows to queries in float32, nearest first."""
    columns = []
    for column in places.unbind(dim=1):
        if metric == "cosine":
            columns.append((1 - F.cosine_similarity(queries, base[column])).clamp_(min=0))
        else:
            columns.append(torch.linalg.vector_norm(queries - base[column], dim=1))
    distances, order = torch.stack(columns, dim=1).sort(dim=1, stable=True)
    return Neighbours(distances, places.gather(1, order))


def _others(found: Neighbours, own: Tensor) -> Neighbours:
    """One neighbor less: without the query itself, whose row is known, or without the last."""
    itself = found.indices == own[:, None].to(found.indices.device)
    itself[~itself.any(dim=1), -1] = True
    shape = (len(own), found.indices.shape[1] - 1)
    return Neighbours(found.distances[~itself].view(shape), found.indices[~itself].view(shape))
