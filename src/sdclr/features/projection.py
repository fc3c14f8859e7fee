"""A map of a collection: a position in the plane for each image, near those of its nearest neighbors.

The method is t-SNE (van der Maaten and Hinton, JMLR 2008) on the graph of nearest neighbors, with equal weights for all
links (Böhm, Berens and Kobak, JMLR 2022). `openTSNE` computes it, by interpolation in time linear in N (Linderman et
al., Nature Methods 2019). It starts from the two slowest modes of a random walk on the graph, so that images far apart
in the graph start far apart.

Large collections are placed in two levels. Images are grouped around landmarks, and the groups are placed. Each image
then starts from the positions of its neighbors' groups, and a few more steps move all images.

The axes and the distances between far groups have no meaning; only neighborhoods have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.errors import InputError
from sdclr.features.nearest import Neighbors
from sdclr.progress import Update, stage

if TYPE_CHECKING:
    from scipy import sparse

PLACED_AT_ONCE: Final = 100_000
"""Number of images up to which all are placed in one level."""

_GROUP: Final = 10
"""Average number of images in a group, if a collection is placed in two levels."""

_EXAGGERATION: Final = 12.0
"""Factor on the attraction of links in the first steps (the usual value)."""
_GATHERING: Final = 100
_SPREADING: Final = 200
_REFINING: Final = 60
"""Steps of the first phase, of the second, and of the second level. With 250 and 500, trustworthiness and accuracy
improve by less than 0.01 (`docs/results/neighbors.md`)."""

_INTERVALS: Final = 20
"""Minimum number of intervals per side of the grid for interpolating repulsion. There is one interval per unit of
length, if that is more; openTSNE's 50 take five times as long for few images."""

_MANY: Final = 20_000
"""Number of images from which several threads are faster than one."""

_FEWEST: Final = 3
_APART: Final = 6
"""The map uses at most a sixth of all images as neighbors of an image, or 3 if that is more."""

_REPORTED: Final = 10
"""Steps between two progress reports."""

_WALK: Final = 100
"""Steps of the random walk for the start positions."""

_START: Final = 1e-4
"""Standard deviation of the start positions: t-SNE needs a small one."""

_JITTER: Final = 0.01
"""Noise on averaged positions, in units of their standard deviation, so that no two are the same."""


def project(neighbors: Neighbors, *, seed: int = 0) -> NDArray[np.float32]:
    """Place images in the plane so that neighbors are close together.

    Memory is linear in N k. On one processor core 100,000 images with 15 neighbors take about half a minute
    (`docs/results/neighbors.md`).

    Args:
        neighbors: Neighbors of all images among themselves, as from `nearest(features, 15)`; indices (N, k).
        seed: Determines the start. The same seed gives the same map for any number of threads.

    Returns:
        (N, 2) finite coordinates around the origin.

    Raises:
        InputError: If the neighbors are not (N, k) indices of N images.

    Example:
        >>> import torch
        >>> from sdclr.features.nearest import nearest
        >>> project(nearest(torch.rand(50, 8), 15)).shape
        (50, 2)
    """
    from scipy import sparse

    indices = neighbors.indices.cpu().numpy()
    if indices.ndim != 2 or not indices.size or indices.min() < 0 or indices.max() >= len(indices):
        raise InputError(
            f"neighbors have indices of shape {indices.shape}: give those of all images among themselves, (N, k), as "
            "nearest(features, k) does"
        )
    count, k = indices.shape
    if k >= count - 1:  # all are neighbors of all, and the graph has no information
        return _scaled_distances(indices, neighbors.distances.cpu().numpy())
    rng = np.random.default_rng(seed)
    # If almost all were neighbors of all, several images would have the same position.
    indices = indices[:, : max(_FEWEST, count // _APART)]
    graph = _graph(indices)
    coarse = count > PLACED_AT_ONCE
    total = _GATHERING + _SPREADING + (_REFINING if coarse else 0)
    with stage("drawing the map", total, unit="steps") as update:
        steps = _Steps(update, total)
        if coarse:
            group = _groups(indices, rng)
            member = sparse.csr_matrix((np.ones(count, dtype=np.float32), group, np.arange(count + 1)))
            places = _placed((member.T @ graph @ member).tocsr(), rng, steps)
            placed = _moved(graph, _spread(graph, places[group], rng), steps, (_REFINING, 1.0))
        else:
            placed = _placed(graph, rng, steps)
    placed -= placed.mean(axis=0)
    return placed.astype(np.float32)


def describe_map(count: int) -> str:
    """Short description of the method for a map of `count` images."""
    if count <= PLACED_AT_ONCE:
        return "t-SNE of the neighbor graph"
    return f"t-SNE of the neighbor graph, {-(-count // _GROUP):,} groups of images first, then the {count:,} images"


def _graph(indices: NDArray[np.int64]) -> sparse.csr_matrix[np.float32]:
    """Symmetric graph of nearest neighbors, all links of weight 1."""
    from scipy import sparse

    count, k = indices.shape
    ones = np.ones(count * k, dtype=np.float32)
    lists = sparse.csr_matrix(
        (ones, indices.ravel().astype(np.int32, copy=False), np.arange(0, count * k + 1, k)), (count, count)
    )
    graph = lists.maximum(lists.T).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


class _Steps:
    """Counts steps over all phases."""

    def __init__(self, update: Update, total: int) -> None:
        self._update, self._done, self._total = update, 0, total

    def __call__(self, _step: int, _error: float, _embedding: Any) -> bool:
        """Callback of `openTSNE` after every few steps."""
        self._done += _REPORTED
        self._update(min(self._done, self._total))
        return False


def _placed(graph: sparse.csr_matrix[np.float32], rng: np.random.Generator, steps: _Steps) -> NDArray[np.float64]:
    """(N, 2) positions of a graph's nodes, without given start positions."""
    start = _slowest_modes(graph, rng)
    return _moved(graph, start, steps, (_GATHERING, _EXAGGERATION), (_SPREADING, 1.0))


def _moved(
    graph: sparse.csr_matrix[np.float32], start: NDArray[np.float64], steps: _Steps, *phases: tuple[int, float]
) -> NDArray[np.float64]:
    """Positions after some steps of t-SNE; each phase is a number of steps and an exaggeration."""
    # The import takes half a second, and only maps need it.
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PrecomputedAffinities
    from scipy import sparse

    weights = graph.data.astype(np.float64)  # the other arrays are shared: nothing writes into them
    embedding = TSNEEmbedding(
        start,
        PrecomputedAffinities(sparse.csr_matrix((weights, graph.indices, graph.indptr), shape=graph.shape)),
        negative_gradient_method="fft",
        min_num_intervals=_INTERVALS,
        n_jobs=torch.get_num_threads() if len(start) >= _MANY else 1,
        callbacks=steps,
        callbacks_every_iters=_REPORTED,
    )
    for count, exaggeration in phases:
        embedding.optimize(count, exaggeration=exaggeration, momentum=0.8, inplace=True)
    return np.array(embedding)


def _slowest_modes(graph: sparse.csr_matrix[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """(N, 2) slowest modes of a random walk on the graph, by subspace iteration of noise; standard deviation 1e-4.

    These are the first modes after the constant one, as in a spectral layout. Solving an eigenvalue problem instead
    takes long in graphs of many components.
    """
    from scipy import sparse

    degree = np.asarray(graph.sum(axis=1)).ravel().astype(np.float64)
    share = degree / degree.sum()
    walk = sparse.diags(1 / np.maximum(degree, 1)) @ graph
    modes = rng.normal(size=(graph.shape[0], 2))
    for step in range(_WALK):
        modes = walk @ modes
        modes -= share @ modes
        if step % _REPORTED == 0:
            modes, _ = np.linalg.qr(modes)
    spread = modes.std(axis=0)
    modes = modes / np.where(spread > 0, spread, 1)
    modes += rng.normal(scale=_JITTER, size=modes.shape)
    return modes * _START


def _groups(indices: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) group of each image: that of its nearest neighbor with a group, starting from random landmarks.

    Images from which no landmark can be reached form one group for each connected part.
    """
    from scipy.sparse.csgraph import connected_components

    count = len(indices)
    group = np.full(count, -1, dtype=np.int64)
    landmarks = rng.permutation(count)[: -(-count // _GROUP)]
    group[landmarks] = np.arange(len(landmarks))
    open_ = np.flatnonzero(group < 0)
    while len(open_):
        found = group[indices[open_]]
        first = (found >= 0).argmax(axis=1)
        reached = found[np.arange(len(open_)), first]
        if (reached < 0).all():
            break
        group[open_] = reached
        open_ = open_[reached < 0]
    if len(open_):
        _, part = connected_components(_graph(indices)[open_][:, open_], directed=False)
        group[open_] = len(landmarks) + part
    return group


def _spread(
    graph: sparse.csr_matrix[np.float32], places: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Place each image at the mean position of its own group and its neighbors' groups, with some noise."""
    degree = np.asarray(graph.sum(axis=1)).ravel()
    mean: NDArray[np.float64] = (graph @ places + places) / (degree + 1)[:, None]
    return mean + rng.normal(scale=_JITTER * places.std(), size=mean.shape)


def _scaled_distances(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positions of a few images whose distances are all known: classical scaling (Torgerson 1952)."""
    count = len(indices)
    halves = np.zeros((count, count))  # the cosine distance is half the squared Euclidean distance of directions
    np.put_along_axis(halves, indices, distances.astype(np.float64), axis=1)
    halves = np.maximum(halves, halves.T)
    centered = halves - halves.mean(axis=0)
    centered -= centered.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(-centered)
    found = np.zeros((count, 2))
    width = min(2, count)
    found[:, :width] = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :width]
    return found.astype(np.float32)
