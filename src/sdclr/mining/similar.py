"""Search for the most similar images by the encoder's features."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from sdclr.choices import Amp, Metric
from sdclr.data.image_files import ImageFiles
from sdclr.data.intensities import with_intensities
from sdclr.data.sources import ImageSource, image_file, open_source
from sdclr.decoding.decode import BadImage
from sdclr.encoders.digest import network_digest
from sdclr.errors import InputError, not_a_text
from sdclr.features.approximate import find_neighbors
from sdclr.features.embeddings import Embeddings, embedding_files, read_embeddings
from sdclr.features.extract import extract_features, feature_batches
from sdclr.files import write_atomically, write_csv
from sdclr.mining.mine import stored_reading
from sdclr.progress import tell
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder

_MANY = 50_000
"""Maximum number of ids that an unknown id is compared with, to suggest a similar one."""


class Row(NamedTuple):
    """One neighbor of one query."""

    query: str
    rank: int
    """1 is the nearest."""
    id: str
    distance: float


@dataclass(frozen=True)
class Found:
    """Neighbors in the order of the queries, the nearest first."""

    rows: list[Row]
    bad: list[BadImage]
    """Unreadable images and queries, which have no rows."""

    def write(self, path: str | Path) -> Path:
        """Write the columns query, rank, id, distance to a `.csv` or `.parquet` file.

        Raises:
            InputError: If the file has another suffix.
        """
        path = Path(path)
        if path.suffix == ".csv":
            write_csv(path, Row._fields, ((*row[:3], f"{row.distance:.6g}") for row in self.rows))
        elif path.suffix == ".parquet":
            columns = list(zip(*self.rows, strict=True)) or [(), (), (), ()]
            types = (pa.string(), pa.int64(), pa.string(), pa.float32())
            arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table(dict(zip(Row._fields, arrays, strict=True))), sink)
            write_atomically(path, memoryview(sink.getvalue()))
        else:
            raise InputError(f"{path}: neighbors are written to a .csv or a .parquet file, not to {path.suffix!r}")
        return path


def neighbors(
    images: ImageSource,
    queries: Sequence[str | Path],
    k: int = 10,
    *,
    encoder: EncoderLike = None,
    metric: Metric = "cosine",
    folder: str | Path | None = None,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    workers: int = 0,
    amp: Amp = "none",
) -> Found:
    """Find the k nearest images of a collection for each query.

    If `mine` has stored the features of all images, they are used again, except for runs. The search is exact up to
    200,000² comparisons of queries with images, for example 40,000 queries and a million images, and approximate beyond
    (`sdclr.features.approximate`).

    Args:
        images: The images; or their embeddings, a file or a folder of shards, so that the encoder is not needed.
        queries: Ids of the collection, or paths of image files. An image is not its own neighbor. For embeddings, only
            an id names an image of the collection; a path is another image.
        k: Neighbors per query; all other images if there are fewer.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`); by
            default the pretrained encoder of `load_encoder()`. Queries of embeddings by their own ids need no encoder;
            other queries need the encoder that computed the embeddings.
        metric: `cosine` is 1 minus the cosine, in [0, 2]; `euclidean` is the distance of the raw features.
        folder: The folder of `mine`; by default as for `mine`.
        batch_size: Images per forward pass.
        device: Device of the encoder and the search.
        workers: Number of processes that decode.
        amp: Precision of the forward pass; `auto` uses bfloat16 if it is clearly faster (as timed on a CPU).

    Returns:
        The neighbors, and the unreadable images.

    Raises:
        InputError: If a query is neither an id nor a file, there is no other image, or the embeddings come from another
            encoder.

    Examples:
        >>> found = sdclr.neighbors("images", ["circle/00.jpg"], k=2)
        >>> found.rows[0].id, found.rows[0].rank  # its near-duplicate
        ('circle/29.jpg', 1)
    """
    not_a_text(queries, "queries", "ids or files")
    if not queries:
        raise InputError("no queries: name ids of the images, or image files")
    use = _Use(encoder, images)
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "amp": amp}
    asked = [str(query) for query in queries]
    if not _are_embeddings(images):
        images = open_source(images)
        _check_queries(asked, images.ids)  # before reading the images
    base, bad = _base(use, images, folder, workers=workers, **how)
    row_of = {image_id: row for row, image_id in enumerate(base.ids)}
    row_of |= _paths(images, queries, row_of)
    gone = {image.id for image in bad}
    files = [query for query in dict.fromkeys(asked) if query not in row_of and query not in gone]
    _check_queries(files, base.ids)
    outside: dict[str, NDArray[np.float32]] = {}
    if files:
        resolved = use.resolved(files[0])
        seen = resolved.preprocessing
        seen = seen if base.intensities is None else replace(seen, intensities=base.intensities)
        batches = feature_batches(resolved.encoder, _Files(files), preprocessing=seen, **how)
        for batch in batches:
            bad += batch.bad
            outside |= {files[place]: row for place, row in zip(batch.positions.tolist(), batch.values, strict=True)}
    usable = [query for query in asked if query in row_of or query in outside]
    return Found(_search(base, usable, row_of, outside, k, metric=metric, device=device), bad)


def _are_embeddings(images: ImageSource) -> TypeGuard[str | Path]:
    return isinstance(images, (str, Path)) and bool(embedding_files(images))


class _Use:
    """The encoder, loaded when it is first needed. Queries of embeddings by id need none."""

    def __init__(self, encoder: EncoderLike, source: ImageSource) -> None:
        self._encoder, self._source = encoder, source
        self._loaded: ResolvedEncoder | None = None

    @property
    def named(self) -> bool:
        """Whether the caller named an encoder."""
        return self._encoder is not None

    def resolved(self, query: str | None = None) -> ResolvedEncoder:
        """The encoder.

        Args:
            query: A query outside the embeddings, for the error.
        """
        embedded = _are_embeddings(self._source)
        if not self.named and embedded:
            raise InputError(f"{query} is not among the embeddings: name the encoder that made them with --encoder")
        if self._loaded is None:
            self._loaded = resolve_encoder(self._encoder, None if embedded else open_source(self._source))
        return self._loaded


def _base(
    use: _Use, source: ImageSource, folder: str | Path | None, *, workers: int, **how: Any
) -> tuple[Embeddings, list[BadImage]]:
    """Ids and features of the collection, from disk or from the encoder, and the unreadable images."""
    if _are_embeddings(source):
        base = read_embeddings(source)
        made_by = base.about.get("encoder")
        if use.named and made_by is not None and made_by != network_digest(use.resolved().encoder):
            raise InputError(f"{source} was not made by {use.resolved().name}: embed again, or name its encoder")
        return base, []
    resolved = use.resolved()
    seen = resolved.preprocessing
    images = with_intensities(open_source(source), seen.intensities)
    reading = None if resolved.run is not None else stored_reading(images, resolved, out=folder, device=how["device"])
    if reading is not None:
        ids = [images.ids[position] for position in reading.usable.tolist()]
        bad = [BadImage(name, reason, counted=True) for name, reason in reading.bad.items()]
        return Embeddings(ids, reading.features[reading.usable]), bad
    features = extract_features(resolved.encoder, images, preprocessing=seen, workers=workers, **how)
    ids = [images.ids[index] for index in features.kept.tolist()]
    return Embeddings(ids, features.values), features.bad


def _search(
    base: Embeddings,
    queries: Sequence[str],
    row_of: dict[str, int],
    outside: dict[str, NDArray[np.float32]],
    k: int,
    *,
    metric: Metric,
    device: str | torch.device,
) -> list[Row]:
    if not queries:
        return []
    own = [row_of.get(query) for query in queries]
    candidates = len(base.ids) - any(row is not None for row in own)
    if k < 1:
        raise InputError(f"k={k} neighbors: choose 1 or more")
    if not candidates:
        raise InputError("there is no other image than the query: neighbors need 2 images or more")
    if k > candidates:
        tell(f"{candidates} neighbors of each query instead of {k}: there are no more images")
        k = candidates
    values = np.stack([base.values[row_of[query]] if query in row_of else outside[query] for query in queries])
    features = torch.from_numpy(base.values).to(device)
    # One more than k, because an image of the collection finds itself.
    found = find_neighbors(features, min(k + 1, len(base.ids)), queries=torch.from_numpy(values), metric=metric)
    rows = []
    for query, row, distances, indices in zip(
        queries, own, found.distances.tolist(), found.indices.tolist(), strict=True
    ):
        others = [(index, distance) for index, distance in zip(indices, distances, strict=True) if index != row]
        rows += [Row(query, rank, base.ids[index], distance) for rank, (index, distance) in enumerate(others[:k], 1)]
    return rows


def _paths(images: ImageSource, queries: Sequence[str | Path], row_of: dict[str, int]) -> dict[str, int]:
    """Rows of queries that are paths of the collection's files, so that they are not their own neighbors."""
    asked = {Path(query).absolute(): str(query) for query in queries if str(query) not in row_of}
    if not asked or _are_embeddings(images):
        return {}
    source = open_source(images)
    found = {}
    for position, image_id in enumerate(source.ids):
        file = image_file(source, position)
        name = None if file is None else asked.get(Path(file).absolute())
        if name is not None and image_id in row_of:
            found[name] = row_of[image_id]
    return found


def _check_queries(queries: Sequence[str], ids: Sequence[str]) -> None:
    """Raise an error for a query that is neither an id nor a file."""
    known = set(ids)
    for query in queries:
        if query not in known and not Path(query).is_file():
            raise InputError(f"{query!r} is neither an id of the images nor a file{_hint(query, ids)}")


def _hint(query: str, ids: Sequence[str]) -> str:
    near = difflib.get_close_matches(query, ids, n=2) if len(ids) <= _MANY else []
    return f"; did you mean {' or '.join(near)}?" if near else f"; ids look like {ids[0]!r}"


class _Files(ImageFiles):
    """Image files by their paths, as a source."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(Path(), paths, paths)
        self.name = "queries"
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
