"""Contents of a collection of images, from the headers of its files: sizes, formats, damage, copies, disk space.

A header takes a fraction of a millisecond, so a hundred thousand files take about a minute. Only files of equal size
are read completely, to compare their bytes.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from sdclr.data.hugging_face import HuggingFaceSource
from sdclr.data.intensities import intensities_of
from sdclr.data.scan import MAX_SMALL_SIDE, scan
from sdclr.data.source import class_name
from sdclr.data.sources import (
    ArraySource,
    FolderSource,
    ManifestSource,
    ParquetSource,
    ShardSource,
    Source,
    SubsetSource,
    image_bytes,
    image_file,
    image_header,
)
from sdclr.data.torch_dataset import TorchSource
from sdclr.decoding.decode import BadImage, Header, read_header
from sdclr.decoding.formats import MOVING, unread_line
from sdclr.errors import BadImageError
from sdclr.progress import stage

MOST_LOOKED_AT: Final = 100_000
"""Maximum number of images that are inspected; larger collections are sampled at even spacing."""
_PEEKED: Final = 2_000
"""Number of images whose headers are read before a command begins."""
_Key = TypeVar("_Key")
_EVERY: Final = 50
"""Number of images between two progress reports."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Contents of a collection.

    Examples:
        >>> found = sdclr.inspect_images("images")
        >>> found.formats, found.sizes
        ({'JPEG': 60}, {(64, 64): 60})
        >>> found.duplicates  # equal byte for byte
        (('square/00.jpg', 'square/23.jpg'),)
    """

    name: str
    """The source's name."""
    kind: str
    """Kind of the source: "folder", "manifest", "Parquet", "pixels in memory", "embeddings", …"""
    images: int
    """Number of images in the collection."""
    looked_at: int
    """Number of images whose headers were read: all, or evenly spaced ones of a large collection."""
    sizes: dict[tuple[int, int], int]
    """Number of images by width and height in pixels, upright."""
    formats: dict[str, int]
    """Number of images by format, such as JPEG; "pixels" if they are not encoded."""
    modes: dict[str, int]
    """Number of images by color mode: RGB, L (gray), RGBA, P (palette), CMYK, …"""
    unreadable: tuple[BadImage, ...]
    """Unreadable images, with reasons. Without decoding, only images with unreadable headers."""
    passed_over: tuple[BadImage, ...]
    """Other files and folders that the source left out, with reasons."""
    decoded: bool
    """Whether all images were decoded, too."""
    animated: int
    """Number of images that are the first frame of an animation (GIF, APNG, WebP, AVIF, HEIC), whose other frames are
    left out."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of ids of inspected images that are equal byte for byte, the largest group first."""
    bytes: int
    """Total size of the inspected encoded images, or of their pixels in memory."""
    free: int | None
    """Free bytes on the disk of the images; None if they are not files."""
    free_here: int
    """Free bytes on the disk of the current folder, the default place of results."""
    classes: dict[str, int]
    """Number of images by class, if the source has labels."""
    vector: int | None = None
    """Length of each vector, if the collection holds embeddings; sizes, formats and so on are then those of the
    pictures that the embeddings name."""

    @property
    def readable(self) -> int:
        """Number of inspected images that are not known to be unreadable."""
        return (self.images if self.decoded else self.looked_at) - len(self.unreadable)

    @property
    def whole(self) -> bool:
        """Whether all headers were read, not only those of a sample."""
        return self.looked_at == self.images

    @property
    def spare(self) -> int:
        """Number of redundant images, which are equal to others byte for byte."""
        return sum(len(group) - 1 for group in self.duplicates)

    @property
    def small(self) -> bool:
        """Whether all sizes are equal and at most 96 px, so that training holds the images in memory."""
        return len(self.sizes) == 1 and max(next(iter(self.sizes))) <= MAX_SMALL_SIDE

    def sides(self) -> tuple[int, int, int] | None:
        """Smallest, median and largest shorter side in pixels; None if no size is known."""
        if not self.sizes:
            return None
        shorter: Counter[int] = Counter()
        for size, count in self.sizes.items():
            shorter[min(size)] += count
        sides, counts = zip(*sorted(shorter.items()), strict=True)
        middle = int(np.searchsorted(np.cumsum(counts), sum(counts) / 2))
        return sides[0], sides[middle], sides[-1]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON. Sizes are `WIDTHxHEIGHT`."""
        sizes = {f"{width}x{height}": count for (width, height), count in self.sizes.items()}
        return {
            **asdict(self),
            "sizes": sizes,
            "unreadable": [image._asdict() for image in self.unreadable],
            "passed_over": [image._asdict() for image in self.passed_over],
        }


def take_inventory(
    source: Source, *, place: Path | None = None, decode: bool = False, workers: int = 0, most: int = MOST_LOOKED_AT
) -> Inventory:
    """Inspect the images of a source. See `sdclr.inspect_images`, which also accepts paths and embeddings.

    Args:
        source: The images.
        place: A file or folder on the disk of the images; None if they are on no disk.
        decode: Decode every image, too, which finds files that are damaged behind the header, and compare the
            checksums of shards.
        workers: Processes that decode; 0 decodes in this process.
        most: Maximum number of images whose headers are read; larger collections are sampled at even spacing.
    """
    positions = _spaced(len(source), most)
    looks = _Looks()
    with stage("reading headers", len(positions)) as update:
        for done, position in enumerate(positions, start=1):
            looks.add(source, position)
            if done % _EVERY == 0:
                update(done)
    bad = {image.id: image for image in looks.bad}
    skipped = tuple(getattr(source, "skipped", ()))
    if decode:
        left_out = set(skipped)
        shards = _whole(source)
        bad |= {image.id: image for image in (shards.damaged_files() if isinstance(shards, ShardSource) else ())}
        bad |= {image.id: image for image in scan(source, workers=workers) if image not in left_out}
    return Inventory(
        name=source.name,
        kind=kind_of(source),
        images=len(source),
        looked_at=len(positions),
        sizes=_most_first(looks.sizes),
        formats=_most_first(looks.formats),
        modes=_most_first(looks.modes),
        unreadable=tuple(bad.values()),
        passed_over=skipped,
        decoded=decode,
        animated=looks.animated,
        duplicates=_named([*_equal_files(looks), *looks.contents.values()], source.ids),
        bytes=looks.bytes,
        free=None if place is None else shutil.disk_usage(place).free,
        free_here=shutil.disk_usage(Path.cwd()).free,
        classes=_classes(source),
    )


def about_files(source: Source) -> list[str]:
    """Notes on a collection's files for the user, one per line; empty for most collections."""
    skipped: Sequence[BadImage] = getattr(source, "skipped", ())
    spaced = _spaced(len(source), _PEEKED)
    animated = 0
    for file in (image_file(source, position) for position in spaced):
        if file is not None and file.suffix.lower() in MOVING:
            with suppress(BadImageError):
                animated += read_header(file, image_id=file.name).animated
    looked = "" if len(spaced) == len(source) else f", of {len(spaced):,} images that were looked at"
    lines = [
        unread_line(image.reason for image in skipped),
        f"animated files, of which the first frame is used: {animated:,}{looked}" if animated else None,
        intensities_of(source)[0].sentence,
    ]
    return [line for line in lines if line]


def kind_of(source: Source) -> str:
    """The kind of a source, in a few words."""
    source = _whole(source)
    kinds = {
        FolderSource: "folder of images",
        ManifestSource: "manifest",
        ParquetSource: "Parquet",
        ShardSource: "tar shards",
        ArraySource: "pixels in memory",
        HuggingFaceSource: "data set of datasets",
        TorchSource: "data set of torch",
    }
    return kinds.get(type(source), type(source).__name__)


def _whole(source: Source) -> Source:
    while isinstance(source, SubsetSource):
        source = source.source
    return source


class _Looks:
    """Statistics of the images inspected so far."""

    def __init__(self) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.bad: list[BadImage] = []
        self.bytes = self.animated = 0
        self.files: dict[int, list[tuple[int, Path]]] = {}
        """Positions and paths of files, by file size in bytes."""
        self.contents: dict[bytes, list[int]] = {}
        """Positions of images that are not files, by the digest of their bytes."""

    def add(self, source: Source, position: int) -> None:
        """Inspect one image."""
        image_id = source.ids[position]
        try:
            self._count(self._look(source, position, image_id))
        except BadImageError as error:
            self.bad.append(BadImage(error.image_id, error.reason, counted=True))

    def _count(self, header: Header) -> None:
        self.animated += header.animated
        self.sizes[header.width, header.height] += 1
        self.formats[header.format] += 1
        self.modes[header.mode] += 1

    def _look(self, source: Source, position: int, image_id: str) -> Header:
        path = image_file(source, position)
        if path is not None:
            header = read_header(path, image_id=image_id)
            size = path.stat().st_size
            self.bytes += size
            self.files.setdefault(size, []).append((position, path))
            return header
        found = image_header(source, position)
        if found is not None:  # a page of a multi-page file
            return found
        data = image_bytes(source, position)
        if data is not None:
            self._keep(data, position)
            return read_header(data, image_id=image_id)
        if isinstance(_whole(source), ParquetSource):
            raise BadImageError(image_id, "zero bytes")
        pixels = source.image(position)
        self._keep(pixels.tobytes(), position)
        return Header("pixels", "RGB", pixels.shape[1], pixels.shape[0])

    def _keep(self, data: bytes, position: int) -> None:
        self.bytes += len(data)
        self.contents.setdefault(hashlib.blake2b(data, digest_size=16).digest(), []).append(position)


def _equal_files(looks: _Looks) -> list[list[int]]:
    """Positions of files that are equal byte for byte. Only files of equal size are read."""
    candidates = [files for size, files in looks.files.items() if size and len(files) > 1]
    total = sum(map(len, candidates))
    groups: list[list[int]] = []
    done = 0
    with stage("comparing files of equal size", total, unit="files") as update:
        for files in candidates:
            equal: dict[bytes, list[int]] = {}
            for position, path in files:
                digest = _digest(path)
                if digest is not None:
                    equal.setdefault(digest, []).append(position)
                done += 1
                if done % _EVERY == 0:
                    update(done)
            groups += equal.values()
    return groups


def _digest(path: Path) -> bytes | None:
    """Digest of a file's bytes; None if it has become unreadable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None


def _spaced(count: int, most: int) -> range | list[int]:
    """All positions, or `most` evenly spaced ones."""
    if count <= most:
        return range(count)
    return [number * count // most for number in range(most)]


def _most_first(counts: Counter[_Key]) -> dict[_Key, int]:
    return dict(counts.most_common())


def _named(groups: Iterable[list[int]], ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Ids of groups of two or more images, the largest group first, then in the order of the source."""
    several = sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))
    return tuple(tuple(ids[position] for position in group) for group in several)


def _classes(source: Source) -> dict[str, int]:
    """Number of images by class; empty without labels."""
    if source.labels is None:
        return {}
    numbers, counts = np.unique(source.labels[source.labels >= 0], return_counts=True)
    names = [class_name(source, number) for number in numbers.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))
