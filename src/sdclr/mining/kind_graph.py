"""The graph to find kinds of images: each distinct image with its nearest neighbors.

Near-copies, such as the frames of a burst, count as one image here. Otherwise they would fill each other's lists of
neighbors, and every burst would appear as a separated group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.features.approximate import find_neighbors
from sdclr.features.nearest import Neighbors

if TYPE_CHECKING:
    from scipy import sparse

COPY_SHARE: Final = 0.1
"""Two images are copies if their distance is at most this share of the typical distance to the tenth neighbor."""

REFERENCE: Final = 10
"""Neighbor whose distance is typical of the collection, assuming that bursts have fewer frames."""

_ROUNDING: Final = 1e-6
"""Cosine distances below this are rounding errors of float32."""

TUNING: Final = 5
"""Neighbor whose distance is the local scale of an image. It is inside even the smallest kind."""

_FARTHEST: Final = 30.0
_ROUNDS: Final = 8
_LINKS: Final = 1_000_000
"""Links per block to weight."""
_PAIRS: Final = 100_000
"""Links per block to count shared neighbors."""


@dataclass(frozen=True)
class DistinctImages:
    """The distinct images, which represent themselves and their near-copies.

    Attributes:
        positions: (M,) int64, ascending positions of these images among all N.
        owner: (N,) int64, index of the distinct image that represents each image.
        copies: (M,) int64, number of images that each represents, including itself.
        indices: (M, k) integers, nearest neighbors among the M, nearest first.
        distances: (M, k) float32, their distances.
    """

    positions: NDArray[np.int64]
    owner: NDArray[np.int64]
    copies: NDArray[np.int64]
    indices: NDArray[np.integer]
    distances: NDArray[np.float32]


def distinct_images(features: Tensor, neighbors: Neighbors) -> DistinctImages:
    """Merge near-copies, and find the neighbors of the remaining images.

    Only images that lost neighbors are searched again.

    Args:
        features: (N, D), checked.
        neighbors: Neighbors of all images among themselves, by cosine.

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
    return DistinctImages(positions, owner, np.bincount(owner), indices, distances)


def _leaders(
    indices: NDArray[np.integer], distances: NDArray[np.float32], empty: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N,) the image that represents each image: itself, or one that it is a copy of.

    The image with the most copies represents them all, so that a chain of images, each a copy of the next, is not
    merged into one. Images with all-zero features have no direction and count as copies of each other.
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
        # This order must not depend on the images' order in the collection.
        order = np.lexsort((distances.sum(axis=1), -degree))
        free = np.ones(count, dtype=bool)
        for image in order[: np.count_nonzero(degree)].tolist():
            if free[image]:
                copies = close.indices[close.indptr[image] : close.indptr[image + 1]]
                copies = copies[free[copies]]
                leader[copies] = image
                free[copies] = free[image] = False
    if len(empty):
        leader[empty] = empty[0]  # their distance to all others is 1, so no other image is a copy of one
    return leader


def _searched_again(
    features: Tensor, indices: NDArray[np.integer], distances: NDArray[np.float32]
) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    """Neighbors of the kept images, where -1 marks a removed neighbor. Changes both arrays in place."""
    count = len(features)
    k = min(indices.shape[1], count - 1)
    lost = np.flatnonzero((indices < 0).any(axis=1))
    new_indices, new_distances = indices[:, :k], distances[:, :k]
    if not len(lost):
        return new_indices, new_distances
    found = find_neighbors(features, k + 1, queries=features[torch.from_numpy(lost).to(features.device)])
    near, far = found.indices.cpu().numpy(), found.distances.cpu().numpy()
    own = near == lost[:, None]
    own[~own.any(axis=1), -1] = True
    new_indices[lost] = near[~own].reshape(len(lost), k)
    new_distances[lost] = far[~own].reshape(len(lost), k)
    return new_indices, new_distances


def neighbor_graph(indices: NDArray[np.integer], distances: NDArray[np.float32]) -> sparse.csr_matrix[np.float64]:
    """Symmetric graph of nearest neighbors: the Jaccard index of two images' lists times their closeness.

    Two images are linked if either is among the other's k nearest. The Jaccard index of their lists, each including the
    image itself, is the number of shared neighbors divided by the number of all neighbors, in (0, 1] (Jarvis and
    Patrick, IEEE Trans. Comput. 1973; Levine et al., Cell 2015). Closeness is the self-tuning Gaussian of Zelnik-Manor
    and Perona (NIPS 2004), exp(-|x - y|² / (s_x s_y)), where s is the distance to an image's fifth neighbor. For unit
    vectors, |x - y|² is twice the cosine distance. Both factors reduce the weight of links that leave a group of fewer
    than k images only because each image has k neighbors.

    Args:
        indices: (N, k), neighbors of each image, nearest first, without the image itself.
        distances: (N, k), their cosine distances.

    Returns:
        (N, N) with at most 2 N k entries in (0, 1], and an empty diagonal.
    """
    from scipy import sparse

    count, k = indices.shape
    rows, columns, weights = _links(indices)
    scale = np.maximum(distances[:, min(TUNING, k) - 1], _ROUNDING)
    # Zeros would count as missing links.
    known = np.maximum(distances, np.finfo(np.float32).tiny).ravel()
    lengths = sparse.csr_matrix(
        (known, indices.ravel().astype(np.int32, copy=False), _starts(count, k)), shape=(count, count)
    )
    del known
    for begin in range(0, len(weights), _LINKS):  # blocks, since temporary arrays of a million images take a gigabyte
        part = slice(begin, begin + _LINKS)
        one, other = rows[part], columns[part]
        length = np.maximum(np.asarray(lengths[one, other]).ravel(), np.asarray(lengths[other, one]).ravel())
        ratio = np.maximum(length.astype(np.float64), _ROUNDING) / np.sqrt(scale[one] * scale[other])
        # A weight that rounds to zero would remove the link.
        weights[part] *= np.exp(-np.minimum(ratio, _FARTHEST))
    del lengths
    half = sparse.csr_matrix((weights, (rows, columns)), shape=(count, count))
    del rows, columns, weights
    return (half + half.T).tocsr()


def _links(indices: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """The links of `neighbor_graph`, each once and sorted: the smaller index, the larger index, the Jaccard index."""
    from scipy import sparse

    count, k = indices.shape
    own = np.arange(count)
    pairs = np.empty(k * count, dtype=np.int64)
    for place, others in enumerate(indices.T):
        pairs[place * count :][:count] = np.minimum(own, others) * count + np.maximum(own, others)
    pairs.sort()
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    rows, columns = (pairs // count).astype(np.int32), (pairs % count).astype(np.int32)
    del pairs
    members = np.column_stack([own.astype(np.int32), indices.astype(np.int32, copy=False)]).ravel()
    ones = np.ones(len(members), dtype=np.int8)
    closed = sparse.csr_matrix((ones, members, _starts(count, k + 1)), shape=(count, count))
    shared = np.empty(len(rows))
    for begin in range(0, len(rows), _PAIRS):
        part = slice(begin, begin + _PAIRS)
        shared[part] = np.asarray(closed[rows[part]].multiply(closed[columns[part]]).sum(axis=1)).ravel()
    shared /= 2 * (k + 1) - shared
    return rows, columns, shared


def _starts(count: int, k: int) -> NDArray[Any]:
    """Start offsets of the rows of a sparse (count, count) matrix with k entries per row."""
    starts: NDArray[Any] = np.arange(count + 1, dtype=np.int32 if count * k < 2**31 else np.int64) * k
    return starts
