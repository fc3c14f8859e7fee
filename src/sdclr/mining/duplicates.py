"""Near-duplicates of a collection: candidates by the embedding, confirmed on pixels, in groups with one to keep.

The neighbor lists that mining has computed name the candidates: an image and at most `CANDIDATES` of its nearest
neighbors, where they are near. Of these images alone pixels are read again; `same_picture` compares them. So a
collection without near-duplicates costs little, and a burst of ten thousand frames stays linear.

Where the line is: two images are near-duplicates if one picture explains both, up to what a program may do to a file
(see `same_picture`). Consecutive frames of a camera are, as long as nothing in view has moved visibly; two photos of
one object are not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdclr.data.sources import Source, fingerprint, image_file
from sdclr.errors import DamagedFileError
from sdclr.features.embeddings import EmbeddedImages
from sdclr.features.nearest import Neighbours
from sdclr.files import parsing, read_json, with_checksum, write_csv, write_json
from sdclr.files.reading import Keys
from sdclr.mining.looks import Looks, compare_pairs, read_looks
from sdclr.mining.same_picture import Match
from sdclr.progress import stage, tell

CANDIDATES: Final = 5
"""Nearest neighbors that an image is compared with. Members of a group are compared with the image to keep, too."""

LISTED: Final = 15
"""Nearest neighbors of an image that may join its group."""

NEAR: Final = 0.1
SHARE: Final = 0.8
"""A pair is a candidate if its cosine distance is at most this share of the collection's usual distance, the median of
that to the last listed neighbor; or `NEAR`, where most images have near-duplicates."""

KEPT: Final = "duplicates.json"
_KEYS: Final[Keys] = {"key": str, "groups": list, "pairs": list, "looked": int, "candidates": int}
"""File of a finished search."""

_FORMAT: Final = "sdclr-duplicates-1"


class DuplicatePair(NamedTuple):
    """An image that could be dropped, and the one that shows the same picture."""

    drop: int
    """Position."""
    keep: int
    """Position of the image to keep, the first of the group."""
    similarity: float
    """Correlation of the two pictures' details where they overlap: 1 for equal ones."""
    how: str
    """What was done to one of them, in words with commas: "same pixels", "recompressed", "resized", "cropped", …"""


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates of a collection.

    Example:
        >>> found = sdclr.find_duplicates("images", encoder="runs/digits")
        >>> for drop, keep, similarity, how in found.pairs:
        ...     print(found.ids[drop], found.ids[keep], how)
        circle/29.jpg circle/00.jpg recompressed
        square/23.jpg square/00.jpg same pixels
    """

    ids: Sequence[str]
    """N ids, in the source's order."""
    groups: tuple[tuple[int, ...], ...]
    """Positions of images that show the same picture: the one to keep, then the others in the source's order. The
    largest group comes first. Each image matches the one to keep."""
    pairs: tuple[DuplicatePair, ...]
    """One for each image that could be dropped, in the order of the groups."""
    looked: int
    """Images of which pixels were read: 0 where there are none, as with embeddings alone, or where no two images are
    near."""
    candidates: int
    """Pairs that the embedding held to be near."""

    @property
    def drop(self) -> list[str]:
        """Ids of the images that could be dropped, in the order of the groups."""
        return [self.ids[pair.drop] for pair in self.pairs]

    def duplicate_of(self) -> NDArray[np.int64]:
        """(N,) position of the image to keep instead of each, -1 where an image is no near-duplicate or is kept."""
        kept = np.full(len(self.ids), -1, dtype=np.int64)
        for pair in self.pairs:
            kept[pair.drop] = pair.keep
        return kept

    def write(self, path: str | Path, source: Source | None = None) -> Path:
        """Write a CSV file `drop,keep,similarity,how`, ids of each pair; with files also `drop_path,keep_path`.

        Args:
            path: The file.
            source: The images, where paths are wanted.
        """
        files = source is not None and any(image_file(source, pair.drop) for pair in self.pairs[:1])
        header = ["drop", "keep", "similarity", "how"] + ["drop_path", "keep_path"] * files
        rows = []
        for pair in self.pairs:
            row = [self.ids[pair.drop], self.ids[pair.keep], f"{pair.similarity:.4f}", pair.how]
            rows.append(row + ([_path(source, pair.drop), _path(source, pair.keep)] if files else []))
        write_csv(Path(path), header, rows)
        return Path(path)

    def write_marks(self, path: str | Path, source: Source | None = None) -> Path:
        """Write a CSV file `path,id,mark,label` that marks each image to drop; the form in which marks are exchanged.

        Args:
            path: The file.
            source: The images, for their paths.
        """
        rows = ([_path(source, pair.drop), self.ids[pair.drop], "drop", ""] for pair in self.pairs)
        write_csv(Path(path), ["path", "id", "mark", "label"], rows)
        return Path(path)


def duplicates_among(
    source: Source,
    near: Neighbours,
    usable: NDArray[np.int64],
    *,
    folder: Path | None = None,
    workers: int = 0,
) -> Duplicates:
    """Find the near-duplicates of a collection whose neighbors are known.

    Args:
        source: The images.
        near: The nearest neighbors of each usable image by cosine distance, (n, k).
        usable: (n,) positions of these images in the source, rising.
        folder: Where the result is kept: a second call for the same images and neighbors reads no pixels. What is
            compared lies there meanwhile, 40 kB a candidate.
        workers: Processes that decode and compare.

    Returns:
        Groups, and one pair for each image that could be dropped. Images that cannot be decoded are in none.
    """
    lists = _candidate_lists(near, usable)
    key = _key(source, lists)
    known = _read_known(folder, key, source)
    if known is not None:
        return known
    pairs = lists.first_pairs()
    candidates, pairs = len(pairs), _with_pictures(source, pairs)
    with read_looks(source, np.unique(pairs), folder=folder, workers=workers) as looks:
        groups = _Groups(looks, lists, pairs, workers)
        with stage("grouping near-duplicates"):
            found = groups.all()
        result = Duplicates(
            ids=source.ids,
            groups=tuple((keep, *sorted(pair.drop for pair in members)) for keep, members in found),
            pairs=tuple(pair for _, members in found for pair in sorted(members)),
            looked=len(looks),
            candidates=candidates,
        )
    if folder is not None:
        write_json(folder / KEPT, with_checksum(_as_json(result) | {"key": key}))
    return result


def _with_pictures(source: Source, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pairs of images that have pictures: embeddings often have none, and looks would take 40 kB for each."""
    if not isinstance(source, EmbeddedImages):
        return pairs
    positions = np.unique(pairs)
    there = np.array([source.file(position) is not None for position in positions.tolist()], dtype=bool)
    return pairs[there[np.searchsorted(positions, pairs)].all(axis=1)]


class _Lists(NamedTuple):
    """Neighbors of each image that are near enough to be candidates, nearest first; -1 fills up."""

    usable: NDArray[np.int64]
    """(n,) positions, rising."""
    indices: NDArray[np.int64]
    """(n, k) positions."""

    def first_pairs(self) -> NDArray[np.int64]:
        """(P, 2) different pairs (the smaller position first) of an image and its `CANDIDATES` nearest, in order."""
        width = min(CANDIDATES, self.indices.shape[1])
        own = np.repeat(self.usable, width)
        others = self.indices[:, :width].ravel()
        pairs = np.stack([own, others], axis=1)[others >= 0]
        found: NDArray[np.int64] = np.unique(np.sort(pairs, axis=1), axis=0)
        return found


def _candidate_lists(near: Neighbours, usable: NDArray[np.int64]) -> _Lists:
    distances = near.distances.cpu().numpy()
    width = min(LISTED, distances.shape[1])
    # A collection's own scale: encoders differ in how near they hold ordinary images to be.
    limit = max(NEAR, SHARE * float(np.median(distances[:, width - 1])))
    indices = near.indices[:, :width].cpu().numpy()
    indices = np.where((distances[:, :width] <= limit) & (indices >= 0), usable[indices], -1)
    indices[indices == usable[:, None]] = -1  # a single image is its own neighbor
    return _Lists(usable, indices)


class _Groups:
    """Groups of images in which every image matches the one to keep."""

    def __init__(self, looks: Looks, lists: _Lists, pairs: NDArray[np.int64], workers: int) -> None:
        self.looks = looks
        self.known: dict[tuple[int, int], Match | None] = dict.fromkeys(map(tuple, pairs.tolist()))
        self.known |= {(one, other): match for one, other, match in compare_pairs(looks, pairs, workers=workers)}
        matched = {position for pair, match in self.known.items() if match is not None for position in pair}
        self.near: dict[int, list[int]] = {position: [] for position in sorted(matched)}
        self._connect(lists)

    def _connect(self, lists: _Lists) -> None:
        """Connect images that have a near-duplicate with those of their neighbors that have one, and equal ones."""
        rows = np.searchsorted(lists.usable, np.array(list(self.near), dtype=np.int64))
        for position, others in zip(list(self.near), lists.indices[rows].tolist(), strict=True):
            for other in others:
                if other in self.near:
                    self.near[position].append(other)
                    self.near[other].append(position)
        first: dict[bytes, int] = {}
        for position in self.near:
            same = first.setdefault(self.looks.digest(position), position)
            if same != position:
                self.near[same].append(position)
                self.near[position].append(same)

    def all(self) -> list[tuple[int, list[DuplicatePair]]]:
        """The image to keep and the others, largest group first.

        Images are taken by how much they are worth keeping. Each takes in what matches it among its neighbors, their
        neighbors, and so on. So no chain A, B, C arises in which A and C differ, and each image is compared a number
        of times that the lengths of the neighbor lists bound.
        """
        free = set(self.near)
        groups = []
        for keep in sorted(self.near, key=self.looks.value):
            if keep not in free:
                continue
            free.remove(keep)
            members, asked, queue = [], {keep}, [keep]
            while queue:
                for other in self.near[queue.pop()]:
                    if other in asked or other not in free:
                        continue
                    asked.add(other)
                    match = self._match(keep, other)
                    if match is not None:
                        free.remove(other)
                        queue.append(other)
                        members.append(DuplicatePair(other, keep, match.similarity, match.how))
            if members:
                groups.append((keep, members))
        return sorted(groups, key=lambda group: (-len(group[1]), group[0]))

    def _match(self, one: int, other: int) -> Match | None:
        pair = (min(one, other), max(one, other))
        if pair not in self.known:
            self.known[pair] = self.looks.compare(*pair)
        return self.known[pair]


def _key(source: Source, lists: _Lists) -> str:
    """Of what a kept result holds: the images by their ids, the candidates, and the way they are compared."""
    digest = hashlib.sha256(f"{_FORMAT} {fingerprint(source)}".encode())
    digest.update(np.ascontiguousarray(lists.indices).data)
    return digest.hexdigest()


def kept_duplicates(folder: Path, source: Source) -> Duplicates | None:
    """The near-duplicates that lie in a folder, whatever they were found by; None if there are none of these images."""
    found = _read_known(folder, None, source)
    known = found is None or max((pair.drop for pair in found.pairs), default=0) < len(source)
    return found if known else None


def _read_known(folder: Path | None, key: str | None, source: Source) -> Duplicates | None:
    if folder is None or not (folder / KEPT).exists():
        return None
    try:
        kept = read_json(folder / KEPT, keys=_KEYS)
        if key is not None and kept["key"] != key:
            return None
        with parsing(folder / KEPT):
            return Duplicates(
                ids=source.ids,
                groups=tuple(map(tuple, kept["groups"])),
                pairs=tuple(DuplicatePair(*pair) for pair in kept["pairs"]),
                looked=kept["looked"],
                candidates=kept["candidates"],
            )
    except DamagedFileError:
        tell(f"{folder / KEPT} is damaged: the search for near-duplicates is repeated")
        return None


def _as_json(found: Duplicates) -> dict[str, Any]:
    return {
        "looked": found.looked,
        "candidates": found.candidates,
        "groups": [list(group) for group in found.groups],
        "pairs": [list(pair) for pair in found.pairs],
    }


def _path(source: Source | None, position: int) -> str:
    file = None if source is None else image_file(source, position)
    return "" if file is None else str(file.absolute())
