"""The graph on which kinds of images are sought: each distinct image beside its nearest neighbors.

Near-copies, such as the frames of a burst, count as one image here. Otherwise they would use up each other's places in
the lists of neighbors, and every burst would look like a group that is separated from the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.features.approximate import find_neighbors
from sdclr.features.nearest import Neighbours

if TYPE_CHECKING:
    from scipy import sparse

COPY_SHARE: Final = 0.1
"""Two images are copies where their distance is at most this share of the typical distance to the tenth neighbor."""

REFERENCE: Final = 10
"""The neighbor whose distance is typical of the collection: bursts of frames are shorter than that."""

_ROUNDING: Final = 1e-6
"""Cosine distances below this are float32's rounding."""

TUNING: Final = 5
"""The neighbor whose distance is an image's own scale: within the smallest kind."""

_FARTHEST: Final = 30.0
_ROUNDS: Final = 8
_PAIRS: Final = 100_000
"""Edges whose shared neighbors are counted at once."""


@dataclass(frozen=True)
class DistinctImages:
    """The images that stand for themselves and their near-copies.

    Attributes:
        positions: (M,) int64, rising positions of these images among all N.
        owner: (N,) int64, which of the M stands for each image.
        copies: (M,) int64, the images each stands for, itself included.
        indices: (M, k) int64, nearest neighbors among the M, nearest first.
        distances: (M, k) float32, their distances.
    """

    positions: NDArray[np.int64]
    owner: NDArray[np.int64]
    copies: NDArray[np.int64]
    indices: NDArray[np.int64]
    distances: NDArray[np.float32]


def distinct_images(features: Tensor, neighbors: Neighbours) -> DistinctImages:
    """Collapse near-copies, and find the neighbors of what is left.

    Only images that lost neighbors are searched again.

    Args:
        features: (N, D), checked.
        neighbors: Of all images among themselves, by cosine.

    Returns:
        M distinct images with min(k, M - 1) neighbors each.
    """
    count = len(features)
    positions = np.arange(count)
    owner = np.arange(count)
    indices, distances = neighbors.indices.cpu().numpy(), neighbors.distances.cpu().numpy()
    empty = np.flatnonzero(~features.any(dim=1).cpu().numpy())
    for _ in range(_ROUNDS):
        leader = _leaders(indices, distances, empty)
        kept = np.flatnonzero(leader == np.arange(len(leader)))
        if len(kept) == len(leader):
            break
        place = np.full(len(leader), -1)
        place[kept] = np.arange(len(kept))
        owner = place[leader][owner]
        positions = positions[kept]
        if len(kept) == 1:
            indices, distances = np.empty((1, 0), dtype=np.int64), np.empty((1, 0), dtype=np.float32)
            break
        indices, distances = _searched_again(features[positions], place[indices[kept]], distances[kept])
        empty = empty[:0]
    return DistinctImages(positions, owner, np.bincount(owner, minlength=len(positions)), indices, distances)


def _leaders(indices: NDArray[np.int64], distances: NDArray[np.float32], empty: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) the image that stands for each: itself, or one it is a copy of.

    The image with most copies stands for them all, so that a chain of images, each a copy of the next, does not
    become one. Images whose features are all zero have no direction and stand for each other.
    """
    from scipy import sparse

    count = len(indices)
    leader = np.arange(count)
    if indices.shape[1]:
        limit = max(_ROUNDING, COPY_SHARE * float(np.median(distances[:, min(REFERENCE, distances.shape[1]) - 1])))
        rows, columns = np.nonzero(distances <= limit)
        ones = np.ones(len(rows), dtype=np.int8)
        close = sparse.csr_matrix((ones, (rows, indices[rows, columns])), shape=(count, count))
        close = close.maximum(close.T).tocsr()
        degree = np.diff(close.indptr)
        # The order must not depend on the images' order in the collection.
        order = np.lexsort((distances.sum(axis=1), -degree))
        free = np.ones(count, dtype=bool)
        for image in order[: np.count_nonzero(degree)].tolist():
            if free[image]:
                copies = close.indices[close.indptr[image] : close.indptr[image + 1]]
                copies = copies[free[copies]]
                leader[copies] = image
                free[copies] = free[image] = False
    if len(empty):
        leader[empty] = empty[0]
        leader = np.where(np.isin(leader, empty), empty[0], leader)
    return leader


def _searched_again(
    features: Tensor, indices: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Neighbors of the images kept, where -1 marks a neighbor that was not."""
    count = len(features)
    k = min(indices.shape[1], count - 1)
    lost = np.flatnonzero((indices < 0).any(axis=1))
    new_indices, new_distances = indices[:, :k].copy(), distances[:, :k].copy()
    if not len(lost):
        return new_indices, new_distances
    found = find_neighbors(features, k + 1, queries=features[torch.from_numpy(lost).to(features.device)])
    near, far = found.indices.cpu().numpy(), found.distances.cpu().numpy()
    own = near == lost[:, None]
    own[~own.any(axis=1), -1] = True
    new_indices[lost] = near[~own].reshape(len(lost), k)
    new_distances[lost] = far[~own].reshape(len(lost), k)
    return new_indices, new_distances


def neighbor_graph(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> sparse.csr_matrix[np.float64]:
    """Symmetric graph of nearest neighbors: the Jaccard index of two images' lists times their closeness.

    Closeness is the self-tuning Gaussian of Zelnik-Manor and Perona (NIPS 2004), exp(-|x - y|² / (s_x s_y)), where s is
    the distance to an image's fifth neighbor. For directions |x - y|² is twice the cosine distance. Both factors
    make the links weak that leave a group of fewer than k images only because each image has k neighbors.

    Args:
        indices: (N, k), neighbors of each image, nearest first; no image is its own.
        distances: (N, k), their cosine distances.

    Returns:
        (N, N) with at most 2 N k entries in (0, 1], and an empty diagonal.
    """
    from scipy import sparse

    count, k = indices.shape
    graph = shared_neighbor_graph(indices).tocoo()
    scale = np.maximum(distances[:, min(TUNING, k) - 1], _ROUNDING)
    rows = np.repeat(np.arange(count), k)
    # Zeros would not be stored.
    known = np.maximum(distances.ravel().astype(np.float64), _ROUNDING)
    lengths = sparse.csr_matrix((known, (rows, indices.ravel())), shape=(count, count))
    lengths = lengths.maximum(lengths.T).tocsr()
    ratio = np.asarray(lengths[graph.row, graph.col]).ravel() / np.sqrt(scale[graph.row] * scale[graph.col])
    # A link that vanishes in rounding would no longer be one.
    weights = graph.data * np.exp(-np.minimum(ratio, _FARTHEST))
    return sparse.csr_matrix((weights, (graph.row, graph.col)), shape=(count, count))


def shared_neighbor_graph(indices: NDArray[np.int64]) -> sparse.csr_matrix[np.float64]:
    """Symmetric graph of nearest neighbors, weighted by how many neighbors two images share.

    Two images are linked if either is among the other's k nearest. The weight is the Jaccard index of their lists,
    each with the image itself: shared neighbors over all neighbors, in (0, 1] (Jarvis and Patrick, IEEE Trans. Comput.
    1973; Levine et al., Cell 2015). It is computed on the links alone, so that memory is linear in N k.

    Args:
        indices: (N, k), neighbors of each image; no image is its own.

    Returns:
        (N, N) with 2 E entries, E at most N k, and an empty diagonal.
    """
    from scipy import sparse

    count, k = indices.shape
    rows = np.repeat(np.arange(count, dtype=np.int32), k)
    lists = sparse.csr_matrix((np.ones(count * k), (rows, indices.ravel().astype(np.int32))), shape=(count, count))
    links = sparse.triu(lists.maximum(lists.T), 1).tocoo()
    closed = (lists + sparse.identity(count, format="csr")).tocsr()
    shared = np.empty(links.nnz)
    for begin in range(0, links.nnz, _PAIRS):
        pairs = slice(begin, begin + _PAIRS)
        both = closed[links.row[pairs]].multiply(closed[links.col[pairs]])
        shared[pairs] = np.asarray(both.sum(axis=1)).ravel()
    weights = shared / (2 * (k + 1) - shared)
    half = sparse.csr_matrix((weights, (links.row, links.col)), shape=(count, count))
    return (half + half.T).tocsr()
