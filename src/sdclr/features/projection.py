"""A map of a collection: a place in the plane for each image, near those of its nearest neighbors.

The method is t-SNE (van der Maaten and Hinton, JMLR 2008) on the graph of nearest neighbors, in which all links weigh
the same (Böhm, Berens and Kobak, JMLR 2022). `openTSNE` computes it, by interpolation in time linear in N (Linderman et
al., Nature Methods 2019). It starts from the two slowest modes of a random walk on the graph, so that what is far apart
in the graph starts far apart.

Large collections are placed in two levels. Images are gathered into groups around landmarks, the groups are placed, and
each image starts from the places of its neighbors' groups, and is then moved by a few more steps among all images.

The axes and the distances between far groups have no meaning: only what is near what does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.errors import InputError
from sdclr.features.nearest import Neighbours
from sdclr.progress import Update, stage

if TYPE_CHECKING:
    from scipy import sparse

PLACED_AT_ONCE: Final = 100_000
"""Images up to which all are placed in one level."""

_GROUP: Final = 10
"""Images of a group, on average, where a collection is placed in two levels."""

_EXAGGERATION: Final = 12.0
"""How many times stronger links attract in the first steps (the usual value)."""
_GATHERING: Final = 100
_SPREADING: Final = 200
_REFINING: Final = 60
"""Steps of the first phase, of the second, and of the second level. With 250 and 500, trustworthiness and accuracy
gain less than a hundredth (`docs/results/neighbors.md`)."""

_INTERVALS: Final = 20
"""Least number of intervals on a side of the grid that repulsion is interpolated on. There is one interval to each unit
of length, if that is more; openTSNE's 50 take five times as long for few images."""

_MANY: Final = 20_000
"""Images from which on several threads are faster than one."""

_FEWEST: Final = 3
_APART: Final = 6
"""An image has at most one in so many images as neighbors on the map, or 3."""

_REPORTED: Final = 10
"""Steps between two reports of progress."""

_WALK: Final = 100
"""Steps of the random walk that the start comes from."""

_START: Final = 1e-4
"""Standard deviation of the start: t-SNE needs a small one."""

_JITTER: Final = 0.01
"""Noise on places that were averaged, in units of their standard deviation, so that no two are the same."""


def project(neighbors: Neighbours, *, seed: int = 0) -> NDArray[np.float32]:
    """Place images in the plane so that neighbors lie together.

    Memory is linear in N k. On one processor core 100,000 images with 15 neighbors take about half a minute
    (`docs/results/neighbors.md`).

    Args:
        neighbors: Of all images among themselves, as `nearest(features, 15)` gives them; indices (N, k).
        seed: Decides the start. The same seed gives the same map, whatever the number of threads.

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
    if k >= count - 1:  # all are neighbors of all, and the graph says nothing
        return _scaled_distances(indices, neighbors.distances.cpu().numpy())
    rng = np.random.default_rng(seed)
    # Where almost all are neighbors of all, several images would fall on one spot.
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
    """How a map of so many images is made, in a few words."""
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
        """As `openTSNE` calls it, after every few steps."""
        self._done += _REPORTED
        self._update(min(self._done, self._total))
        return False


def _placed(graph: sparse.csr_matrix[np.float32], rng: np.random.Generator, steps: _Steps) -> NDArray[np.float64]:
    """(N, 2) places of a graph's nodes, from nothing."""
    start = _slowest_modes(graph, rng)
    return _moved(graph, start, steps, (_GATHERING, _EXAGGERATION), (_SPREADING, 1.0))


def _moved(
    graph: sparse.csr_matrix[np.float32], start: NDArray[np.float64], steps: _Steps, *phases: tuple[int, float]
) -> NDArray[np.float64]:
    """Places after some steps of t-SNE, each phase a number of steps and an exaggeration."""
    # Half a second to import, and only maps need it.
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
    """(N, 2) what is left of noise after a random walk on the graph, by subspace iteration; of standard deviation 1e-4.

    Only the first modes after the constant one are left, as in a spectral layout, but no eigenvalue problem is solved,
    which takes long in graphs of many components.
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
    """(N,) group of each image: that of the nearest neighbor which has one, starting from landmarks drawn at random.

    Images from which no landmark can be reached make a group of each connected part.
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
    """Each image between its own group's place and those of its neighbors."""
    degree = np.asarray(graph.sum(axis=1)).ravel()
    mean: NDArray[np.float64] = (graph @ places + places) / (degree + 1)[:, None]
    return mean + rng.normal(scale=_JITTER * places.std(), size=mean.shape)


def _scaled_distances(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places of a few images whose distances are all known: classical scaling (Torgerson 1952)."""
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
