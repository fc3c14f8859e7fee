"""An index of a collection's features, small enough to search on a page opened from disk.

Features are reduced by principal components and stored as one byte per component. The page compares a query with all
images, so only this reduction is approximate. Its recall is measured on a sample when the index is created.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sdclr.errors import InputError
from sdclr.files import write_atomically

LIMIT: Final = 24 * 2**20
"""Default maximum bytes of the scripts of an index."""

DIMENSIONS: Final = (32, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of components to try, smallest first. Fewer than the first give a poor search."""

_ENOUGH: Final = 0.95
"""Recall of the ten nearest neighbors at which the number of components is sufficient."""

_FITTED: Final = 20_000
"""Approximate maximum number of images to fit the components, evenly spread."""

_ASKED: Final = 200
"""Number of images whose neighbors are compared with exact ones."""

_NEAREST: Final = 10

_BLOCK: Final = 8192
"""Images per block."""

_SCRIPT: Final = 3 * 2**19
"""Maximum bytes of one script before base64. A browser decodes it in a few milliseconds."""


@dataclass(frozen=True)
class SearchIndex:
    """Images as codes. Row i has the components `codes[i] * scale + mean`.

    A feature vector f of length 1 has the components `components @ f`. The similarity of two images with components y
    and z is `(y @ z + rest) / sqrt(|y| * |z|)`, where `|y|` is `sqrt(y @ y + rest)`. The numerator is the inner product
    of the reduced vectors; divided by `|y| * |z|` it would be their cosine. This intermediate form finds at least as
    many of the exact neighbors as either, and mostly more (docs/results/page_search.md).
    """

    codes: NDArray[np.int8]
    """(N, d)."""
    scale: NDArray[np.float32]
    """(d,)."""
    mean: NDArray[np.float32]
    """(d,), components of the mean of the features."""
    rest: float
    """Squared length of the mean outside the components."""
    components: NDArray[np.float32]
    """(d, D), orthonormal rows."""
    recall: float
    """Share of the ten nearest neighbors by cosine of the full features that the index finds, on a sample."""

    @property
    def bytes(self) -> int:
        """Size of its scripts, without the few bytes around the codes."""
        return _in_base64(self.codes.size)

    def query(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Components (Q, d) of feature vectors (Q, D)."""
        found: NDArray[np.float32] = normalized(features) @ self.components.T
        return found

    def row(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Components (Q, d) of images in the index."""
        found: NDArray[np.float32] = self.codes[rows] * self.scale + self.mean
        return found

    def similarities(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Similarity (Q, N) of queries, given by their components, to all images; 1 for images equal to the query."""
        lengths = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1) + self.rest)
        found = np.hstack([products for _, products in _products(self, queries)]) / lengths[:, None] ** 1.5
        capped: NDArray[np.float32] = np.minimum(found, 1).astype(np.float32)
        return capped


class _Nearest:
    """The nearest neighbors of some rows, found block by block."""

    def __init__(self, asked: NDArray[np.int64], rows: int) -> None:
        self.asked = asked
        self.k = min(_NEAREST, rows - 1)
        self.best = np.full((len(asked), self.k), -np.inf)
        self.places = np.zeros((len(asked), self.k), dtype=np.int64)

    def see(self, first: int, similarities: NDArray[Any]) -> None:
        """Update with the similarities (Q, B) to the rows from `first` on. A row is not a neighbor of itself."""
        inside = (self.asked >= first) & (self.asked < first + similarities.shape[1])
        similarities[np.flatnonzero(inside), self.asked[inside] - first] = -np.inf
        numbers = np.broadcast_to(np.arange(first, first + similarities.shape[1]), similarities.shape)
        both = np.hstack([self.best, similarities])
        chosen = np.argpartition(-both, self.k - 1, axis=1)[:, : self.k]
        self.best = np.take_along_axis(both, chosen, axis=1)
        self.places = np.take_along_axis(np.hstack([self.places, numbers]), chosen, axis=1)

    def shared(self, other: "_Nearest") -> float:
        """Share of the other's neighbors that are also here."""
        pairs = zip(self.places, other.places, strict=True)
        return float(np.mean([len(np.intersect1d(own, theirs)) / self.k for own, theirs in pairs]))


def make_index(
    features: NDArray[np.floating[Any]],
    rows: NDArray[np.int64],
    *,
    limit: int = LIMIT,
    dimensions: Sequence[int] = DIMENSIONS,
) -> SearchIndex | None:
    """Reduce features to an index of at most `limit` bytes.

    The index has the fewest components that keep 95% of the ten nearest neighbors on a sample, otherwise the most that
    the limit allows. Features are read in blocks; the additional memory is about four times `limit`.

    Args:
        features: (M, D), maybe memory-mapped.
        rows: Positions in `features` of the N images to index, in the index's order.
        limit: Maximum bytes of the scripts.
        dimensions: Numbers of components to choose from.

    Returns:
        The index; None if the fewest components exceed the limit, or there are fewer than two images.

    Raises:
        InputError: Features of an indexed image are not finite.

    Examples:
        >>> features = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
        >>> index = make_index(features, np.arange(200))
        >>> int(index.similarities(index.query(features[7:8])).argmax())
        7
    """
    from sklearn.decomposition import PCA

    width = features.shape[1]
    wanted = sorted({min(dimension, width, len(rows)) for dimension in dimensions})
    wanted = [dimension for dimension in wanted if _in_base64(len(rows) * dimension) <= limit]
    if not wanted or len(rows) < 2:
        return None
    fitted = PCA(wanted[-1], svd_solver="covariance_eigh").fit(_spread(features, rows))
    components = fitted.components_.astype(np.float32)
    mean = components @ fitted.mean_.astype(np.float32)
    reduced = np.empty((len(rows), wanted[-1]), dtype=np.float32)
    exact = _reduce(features, rows, components, reduced)
    reduced -= mean
    scales = np.maximum(np.abs(reduced).max(axis=0), np.finfo(np.float32).tiny) / 127
    reduced /= scales
    codes = np.rint(reduced).astype(np.int8)
    del reduced
    squared = float(fitted.mean_.astype(np.float64) @ fitted.mean_.astype(np.float64))
    for dimension in wanted:
        own = mean[:dimension]
        rest = max(0.0, squared - float(own.astype(np.float64) @ own))
        part = np.ascontiguousarray(codes[:, :dimension])
        index = SearchIndex(part, scales[:dimension], own, rest, components[:dimension], 0.0)
        recall = _recall(index, exact)
        if recall >= _ENOUGH or dimension == wanted[-1]:
            return SearchIndex(part, index.scale, own, rest, index.components, recall)
    return None


def normalized(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Feature vectors (…, D) scaled to length 1; zeros stay zeros."""
    values = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = values / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def check_features(features: NDArray[Any], images: int) -> None:
    """Check that features match the number of images.

    Raises:
        InputError: The features are not a matrix with one row per image.
    """
    if features.ndim != 2 or len(features) != images or features.shape[1] < 1:
        raise InputError(f"features have shape {features.shape} for {images} images: give one row for each image")


def write_index(folder: Path, prefix: str, index: SearchIndex) -> dict[str, Any]:
    """Write the scripts of an index.

    Args:
        folder: The folder of the scripts.
        prefix: A script is named `{prefix}{number}.js`.
        index: The index.

    Returns:
        Settings for the page: names of the scripts, and the parameters to read their codes.
    """
    images, dimension = index.codes.shape
    together = max(1, _SCRIPT // dimension)
    scripts = []
    for number, first in enumerate(range(0, images, together)):
        scripts.append(f"{prefix}{number:03d}.js")
        codes = as_base64(index.codes[first : first + together], "i1")
        write_script(folder / scripts[-1], "sdclrCodes", {"first": first, "codes": codes})
    return {
        "scripts": scripts,
        "dimensions": dimension,
        "scale": as_base64(index.scale, "<f4"),
        "mean": as_base64(index.mean, "<f4"),
        "rest": index.rest,
        "recall": round(index.recall, 4),
        "bytes": index.bytes,
    }


def write_script(path: Path, function: str, value: dict[str, Any]) -> int:
    """Write a script that calls a function of the page. Returns its size in bytes."""
    data = f"{function}({json.dumps(value, separators=(',', ':'))});\n".encode()
    write_atomically(path, data)
    return len(data)


def as_base64(values: NDArray[Any], kind: str) -> str:
    """Numbers as bytes of a type in base64, for a script."""
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def _in_base64(size: int) -> int:
    return 4 * -(-size // 3)


def _products(index: SearchIndex, queries: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Start of each block of rows, and its similarities (Q, B) without the factor per query."""
    for first in range(0, len(index.codes), _BLOCK):
        part = index.codes[first : first + _BLOCK] * index.scale + index.mean
        lengths = np.sqrt((part.astype(np.float64) ** 2).sum(axis=1) + index.rest)
        yield first, (queries @ part.T + index.rest) / np.sqrt(np.maximum(lengths, 1e-12))


def _blocks(features: NDArray[Any], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Start of each block of images, and its features scaled to length 1."""
    for first in range(0, len(rows), _BLOCK):
        part = np.asarray(features[rows[first : first + _BLOCK]], dtype=np.float32)
        if not np.isfinite(part).all():
            broken = rows[first + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])]
            raise InputError(f"the features of image {broken} are not finite: give the features of all ranked images")
        yield first, normalized(part)


def _spread(features: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Features of evenly spread images."""
    chosen = np.sort(rows)[:: -(-len(rows) // _FITTED)]
    return np.concatenate([part for _, part in _blocks(features, chosen)])


def _reduce(
    features: NDArray[Any], rows: NDArray[np.int64], components: NDArray[np.float32], reduced: NDArray[np.float32]
) -> _Nearest:
    """Fill `reduced` with components (N, d), and find the exact neighbors of a sample in the same pass."""
    asked = np.unique(np.linspace(0, len(rows) - 1, min(_ASKED, len(rows))).round().astype(np.int64))
    queries = normalized(features[rows[asked]])
    exact = _Nearest(asked, len(rows))
    for first, part in _blocks(features, rows):
        reduced[first : first + len(part)] = part @ components.T
        exact.see(first, queries @ part.T)
    return exact


def _recall(index: SearchIndex, exact: _Nearest) -> float:
    found = _Nearest(exact.asked, len(index.codes))
    for first, products in _products(index, index.row(exact.asked)):
        found.see(first, products)
    return found.shared(exact)
