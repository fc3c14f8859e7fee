"""Near-duplicates of a collection: candidates by the embedding, confirmed on pixels, in groups with an image to keep.

The candidates come from the neighbor lists of mining: an image and at most `CANDIDATES` of its nearest neighbors, if
they are near. Only these images are decoded again; `same_picture` compares their pixels. So a collection without
near-duplicates costs little, and the cost of a burst of frames is linear in its length.

Definition: two images are near-duplicates if they are copies of one picture, up to edits that a program may make to a
file (see `same_picture`). Consecutive camera frames count as long as nothing has moved visibly. Two photos of one
object do not.
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
from sdclr.features.nearest import Neighbors
from sdclr.files import parsing, read_json, with_checksum, write_csv, write_json
from sdclr.files.reading import Keys
from sdclr.mining.looks import Looks, compare_pairs, read_looks
from sdclr.mining.same_picture import Match
from sdclr.progress import stage, tell

CANDIDATES: Final = 5
"""Number of nearest neighbors that each image is compared with. Group members are also compared with the image to
keep."""

LISTED: Final = 15
"""Number of nearest neighbors of an image that may join its group."""

NEAR: Final = 0.1
SHARE: Final = 0.8
"""A pair is a candidate if its cosine distance is at most `SHARE` times the collection's usual distance, which is the
median distance to the last listed neighbor. The limit is at least `NEAR`, in case most images have near-duplicates."""

KEPT: Final = "duplicates.json"
_KEYS: Final[Keys] = {"key": str, "groups": list, "pairs": list, "looked": int, "candidates": int}
"""Keys of the file of a finished search."""

_FORMAT: Final = "sdclr-duplicates-1"


class DuplicatePair(NamedTuple):
    """An image to drop, and the image to keep that shows the same picture."""

    drop: int
    """Position of the image to drop."""
    keep: int
    """Position of the image to keep, the first of the group."""
    similarity: float
    """Correlation of the two pictures' details in their overlap: 1 for equal ones."""
    how: str
    """Comma-separated edits between the two: "same pixels", "recompressed", "resized", "cropped", …"""


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
    """Positions of images that show the same picture: the image to keep, then the others in the source's order. The
    largest group comes first. Each image matches the image to keep."""
    pairs: tuple[DuplicatePair, ...]
    """One pair per image to drop, in the order of the groups."""
    looked: int
    """Number of images whose pixels were compared; 0 without pixels (embeddings only) or without near pairs."""
    candidates: int
    """Number of pairs that are near in the embedding."""

    @property
    def drop(self) -> list[str]:
        """Ids of the images to drop, in the order of the groups."""
        return [self.ids[pair.drop] for pair in self.pairs]

    def duplicate_of(self) -> NDArray[np.int64]:
        """(N,) position of the image to keep instead of each image to drop; -1 for all other images."""
        kept = np.full(len(self.ids), -1, dtype=np.int64)
        for pair in self.pairs:
            kept[pair.drop] = pair.keep
        return kept

    def write(self, path: str | Path, source: Source | None = None) -> Path:
        """Write a CSV file `drop,keep,similarity,how` with the ids of each pair; with files also `drop_path,keep_path`.

        Args:
            path: The file.
            source: The images, to add their paths.
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
        """Write a CSV file of marks, `path,id,mark,label`, with the mark `drop` for each image to drop.

        Args:
            path: The file.
            source: The images, for their paths.
        """
        rows = ([_path(source, pair.drop), self.ids[pair.drop], "drop", ""] for pair in self.pairs)
        write_csv(Path(path), ["path", "id", "mark", "label"], rows)
        return Path(path)


def duplicates_among(
    source: Source,
    near: Neighbors,
    usable: NDArray[np.int64],
    *,
    folder: Path | None = None,
    workers: int = 0,
) -> Duplicates:
    """Find the near-duplicates of a collection with known neighbors.

    Args:
        source: The images.
        near: The nearest neighbors of each usable image by cosine distance, (n, k).
        usable: (n,) positions of these images in the source, ascending.
        folder: Folder to store the result; another call for the same images and neighbors then reads no pixels. It
            also holds temporary data of the comparison, 40 kB per candidate.
        workers: Number of processes that decode and compare.

    Returns:
        Groups, and one pair per image to drop. Images that cannot be decoded are in no group.
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
    """The pairs whose images have files. Embeddings often have none, and their looks would take 40 kB each."""
    if not isinstance(source, EmbeddedImages):
        return pairs
    positions = np.unique(pairs)
    there = np.array([source.file(position) is not None for position in positions.tolist()], dtype=bool)
    return pairs[there[np.searchsorted(positions, pairs)].all(axis=1)]


class _Lists(NamedTuple):
    """Neighbors of each image that are near enough to be candidates, nearest first, padded with -1."""

    usable: NDArray[np.int64]
    """(n,) positions, ascending."""
    indices: NDArray[np.int64]
    """(n, k) positions."""

    def first_pairs(self) -> NDArray[np.int64]:
        """(P, 2) unique sorted pairs (smaller position first) of an image and its `CANDIDATES` nearest neighbors."""
        width = min(CANDIDATES, self.indices.shape[1])
        own = np.repeat(self.usable, width)
        others = self.indices[:, :width].ravel()
        pairs = np.stack([own, others], axis=1)[others >= 0]
        found: NDArray[np.int64] = np.unique(np.sort(pairs, axis=1), axis=0)
        return found


def _candidate_lists(near: Neighbors, usable: NDArray[np.int64]) -> _Lists:
    distances = near.distances.cpu().numpy()
    width = min(LISTED, distances.shape[1])
    # The limit depends on the collection, since typical distances differ between encoders.
    limit = max(NEAR, SHARE * float(np.median(distances[:, width - 1])))
    indices = near.indices[:, :width].cpu().numpy()
    indices = np.where((distances[:, :width] <= limit) & (indices >= 0), usable[indices], -1)
    indices[indices == usable[:, None]] = -1  # a single image is its own neighbor
    return _Lists(usable, indices)


class _Groups:
    """Groups of images in which every image matches the image to keep."""

    def __init__(self, looks: Looks, lists: _Lists, pairs: NDArray[np.int64], workers: int) -> None:
        self.looks = looks
        self.known: dict[tuple[int, int], Match | None] = dict.fromkeys(map(tuple, pairs.tolist()))
        self.known |= {(one, other): match for one, other, match in compare_pairs(looks, pairs, workers=workers)}
        matched = {position for pair, match in self.known.items() if match is not None for position in pair}
        self.near: dict[int, list[int]] = {position: [] for position in sorted(matched)}
        self._connect(lists)

    def _connect(self, lists: _Lists) -> None:
        """Connect images that have a near-duplicate with their neighbors that have one, and with equal images."""
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
        """The image to keep and the others of each group, largest group first.

        Images are processed by their value, best first. Each collects the matching images among its neighbors, their
        neighbors, and so on. So there are no chains A, B, C in which A and C differ, and the lengths of the neighbor
        lists limit the number of comparisons per image.
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
    """Key of a stored result: a hash of the image ids, the candidates, and the format version."""
    digest = hashlib.sha256(f"{_FORMAT} {fingerprint(source)}".encode())
    digest.update(np.ascontiguousarray(lists.indices).data)
    return digest.hexdigest()


def kept_duplicates(folder: Path, source: Source) -> Duplicates | None:
    """The near-duplicates stored in a folder, found with any candidates; None if there are none of these images."""
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
