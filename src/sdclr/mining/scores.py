"""The scores of a collection's images, their ranking, and their files."""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sdclr.data.sources import Source, image_file
from sdclr.errors import InputError
from sdclr.files import damaged, parquet_bytes, parsing, read_table, write_atomically, write_csv
from sdclr.reporting.gallery_entries import KindGroup, NearestOld

KIND_NEIGHBORS: Final = 15
"""Number of neighbors per image in the graph of kinds. Larger kinds hardly depend on it, smaller ones can be missed
(docs/results/rarity.md)."""

FORMAT: Final = "sdclr-scores-2"
MINE_AGAIN: Final = "run `sdclr mine` again, which writes it"
"""Advice for a damaged file of scores."""

_FIXED: Final = ("id", "score", "rank", "percentile", "kind", "odd", "bad", "label", "duplicate_of", "new")
"""Columns that every file has. Each score adds a column with its name."""

_NEAREST_OLD: Final = "nearest_old"
"""Column with the id of the nearest old image, if there is an earlier collection."""

_MAP: Final = ("map_x", "map_y")
"""Columns with map coordinates, if there is a map."""

_QUANTILES: Final = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_RAREST: Final = 20


@dataclass(frozen=True, repr=False)
class Scores:
    """Scores and ranking of all images of a collection. `rank_images` creates them.

    Larger values of `rarity` mean rarer images. `columns` holds the raw measures, for which this may not be true.

    Example:
        >>> scores = sdclr.mine("images", encoder="runs/digits")
        >>> len(scores), scores.score, int(scores.rank.min()), int(scores.rank.max())
        (60, 'kinds', 1, 60)
        >>> sdclr.Scores.read(scores.write("scores.parquet")).order().shape
        (60,)
    """

    ids: list[str]
    """N ids in the source's order, including bad images."""
    columns: dict[str, NDArray[np.float32]]
    """(N,) measures by name, such as "distance_10", "forgetting_0.5", "loss", "kind_size"; nan for bad images."""
    rarity: NDArray[np.float32]
    """(N,) the score that ranks the images; nan for bad images."""
    rank: NDArray[np.int64]
    """(N,) 1 for the rarest; 0 for bad images."""
    percentile: NDArray[np.float32]
    """(N,) from 0 for the most common image to 100 for the rarest; nan for bad images."""
    kinds: NDArray[np.int64]
    """(N,) kind of each image, 0 for the largest; -1 for bad images. Kinds are separate in the neighbor graph."""
    groups: tuple[KindGroup, ...]
    """(K,) size, separation and medoid of each kind, largest first; one kind if no group is separate."""
    odd: NDArray[np.int64]
    """Positions of single images that are far from all others, oddest first."""
    bad: dict[str, str]
    """Reason by id."""
    labels: NDArray[np.int64] | None
    """(N,) class ids, -1 if unknown. Only displayed, never used to score."""
    classes: tuple[str, ...]
    """Class names, () if there are none."""
    score: str
    """Name of the score in `rarity`, such as "distance"."""
    about: dict[str, Any] = field(default_factory=dict)
    """Origin of the scores: encoder, configuration, version. JSON values."""
    projection: NDArray[np.float32] | None = None
    """(N, 2) coordinates of each image on a map of the collection, nan for bad images; None without a map."""
    duplicates: tuple[tuple[int, ...], ...] = ()
    """Groups of positions of near-duplicates, the image to keep first; the largest group first."""
    label_next: tuple[int, ...] = ()
    """Positions of images to label next, in order."""
    since: NDArray[np.int64] | None = None
    """(N,) seconds since 1970 when each image was added or changed; 0 if in the first call; None if all were."""
    old: NearestOld | None = None
    """The nearest images of an earlier collection; None without one. `read` does not restore it."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Scores({len(self):,} images ranked by {self.score}, {len(self.groups):,} kinds)"

    def order(self) -> NDArray[np.int64]:
        """Positions of the usable images, rarest first."""
        usable = np.flatnonzero(self.rank > 0)
        return usable[np.argsort(self.rank[usable])]

    def write(self, path: str | Path) -> Path:
        """Write everything to a Parquet file atomically.

        Its columns are id, score, rank, percentile, kind, odd (1 for the oddest image, empty for images that are not
        odd), bad (the reason), label, duplicate_of (for a near-duplicate to drop: the id of the image to keep), new
        (the time when the image was added or changed; empty for those of the first call), nearest_old (the id) if there
        is an earlier collection, map_x and map_y if there is a map, and one per score. The rest is JSON under the key
        `sdclr` of the metadata.
        """
        path = Path(path)
        empty = np.array([image_id in self.bad for image_id in self.ids], dtype=bool)
        labels = np.full(len(self), -1, dtype=np.int64) if self.labels is None else self.labels
        plain = [_utf8(image_id) for image_id in self.ids]
        table: dict[str, pa.Array] = {
            "id": pa.array(plain, type=pa.string()),
            "score": pa.array(self.rarity, mask=empty),
            "rank": pa.array(self.rank, mask=empty),
            "percentile": pa.array(self.percentile, mask=empty),
            "kind": pa.array(self.kinds, mask=empty),
            "odd": pa.array(self._places, mask=self._places == 0),
            "bad": pa.array([self.bad.get(image_id) for image_id in self.ids], type=pa.string()),
            "label": pa.array(labels, mask=labels < 0),
            "duplicate_of": pa.array([None if row is None else plain[row] for row in self._kept], type=pa.string()),
            "new": pa.array(1000 * self._since, pa.timestamp("ms", tz="UTC"), mask=self._since == 0),
        }
        if self.old is not None:
            nearest = [None if row < 0 else _utf8(self.old.ids[row]) for row in self.old.rows[:, 0].tolist()]
            table[_NEAREST_OLD] = pa.array(nearest, type=pa.string())
        if self.projection is not None:
            table |= {name: pa.array(self.projection[:, axis], mask=empty) for axis, name in enumerate(_MAP)}
        table |= {name: pa.array(values, mask=empty) for name, values in self.columns.items()}
        described = {
            "format": FORMAT,
            "score": self.score,
            "classes": list(self.classes),
            "groups": [asdict(group) for group in self.groups],
            "duplicates": [list(group) for group in self.duplicates],
            "label_next": list(self.label_next),
            "labeled": self.labels is not None,
            "about": self.about,
            # File names that are not UTF-8 contain lone surrogates, which Parquet cannot store.
            "exact_ids": {i: self.ids[i] for i, text in enumerate(plain) if text != self.ids[i]},
        }
        written = pa.table(table).replace_schema_metadata({"sdclr": json.dumps(described)})
        write_atomically(path, parquet_bytes(written))
        return path

    def to_csv(self, path: str | Path) -> Path:
        """Write the columns of `write` as CSV, rarest first and bad images last; unknown values are empty.

        Labels are written as class names if known.
        """
        header = [*_FIXED, *self.columns]
        write_csv(Path(path), header, ((self.ids[index], *self._cells(index)) for index in self._all()))
        return Path(path)

    def to_fiftyone(self, path: str | Path, source: Source) -> Path:
        """Write a CSV file that FiftyOne imports as `fiftyone.types.CSVDataset`.

        `fiftyone.Dataset.from_dir(labels_path=PATH, dataset_type=fiftyone.types.CSVDataset, fields=…)` reads it;
        `fields` maps columns to types, as in `{"sdclr_rarity": float, "sdclr_rank": int}`, and only these are imported.
        Without `fields` all columns are text. FiftyOne sorts samples by path;
        `dataset.exists("sdclr_rank").sort_by("sdclr_rank")` puts the rarest first and leaves out bad images. The
        columns are filepath (absolute), and sdclr_id, sdclr_rarity, sdclr_rank, … with an underscore for each dot;
        near-duplicates have the id of the image to keep in sdclr_duplicate_of.

        Args:
            path: The file.
            source: The scored images, each an individual file.

        Raises:
            InputError: The images are not individual files or not the scored ones, or a path contains a carriage return
                or bytes that are not UTF-8, which FiftyOne cannot import.
        """
        if list(source.ids) != self.ids:
            raise InputError(f"{source.name} holds other images than were scored: give the source that was mined")
        files = [image_file(source, index) for index in range(len(self))]
        if None in files:
            raise InputError(
                f"{source.name}: its images are not individual files, which FiftyOne needs: write a CSV file"
            )
        paths = [str(Path(file or "").absolute()) for file in files]
        for file in paths:
            if "\r" in file or _utf8(file) != file:
                raise InputError(f"{file!r} is a name that FiftyOne cannot import: rename the file, and mine again")
        names = ("id", "rarity", *_FIXED[2:], *self.columns)
        header = ["filepath", *(f"sdclr_{re.sub(r'[^0-9A-Za-z]', '_', name)}" for name in names)]
        rows = ((paths[i], self.ids[i], *self._cells(i)) for i in self._all())
        write_csv(Path(path), header, rows)
        return Path(path)

    def summary(self) -> dict[str, Any]:
        """Summary as JSON values: counts, quantiles of each score, kinds, odd and rarest images."""
        usable = self.rank > 0
        quantiles = {
            name: dict(zip(map(str, _QUANTILES), np.percentile(values[usable], _QUANTILES).tolist(), strict=True))
            for name, values in {"rarity": self.rarity, **self.columns}.items()
        }
        return {
            "images": len(self),
            "bad": len(self.bad),
            "score": self.score,
            "quantiles": quantiles,
            "kinds": [asdict(group) | {"medoid": self.ids[group.medoid]} for group in self.groups],
            "odd": [self.ids[position] for position in self.odd.tolist()],
            "duplicate_groups": len(self.duplicates),
            "duplicates_to_drop": sum(len(group) - 1 for group in self.duplicates),
            "rarest": [self.ids[index] for index in self.order()[:_RAREST].tolist()],
            "bad_images": self.bad,
            **self.about,
        }

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """(N,) rank among the odd images, 1 for the oddest; 0 for all others."""
        places = np.zeros(len(self), dtype=np.int64)
        places[self.odd] = np.arange(1, len(self.odd) + 1)
        return places

    @property
    def _since(self) -> NDArray[np.int64]:
        return np.zeros(len(self), dtype=np.int64) if self.since is None else self.since

    @cached_property
    def _kept(self) -> list[int | None]:
        """(N,) position of the image to keep instead of each near-duplicate; None for all others."""
        kept: list[int | None] = [None] * len(self)
        for keep, *others in self.duplicates:
            for position in others:
                kept[position] = keep
        return kept

    def _all(self) -> list[int]:
        return [*self.order().tolist(), *np.flatnonzero(self.rank == 0).tolist()]

    def _cells(self, index: int) -> list[object]:
        """An image's values of all columns except its id; None if unknown."""
        label = -1 if self.labels is None else int(self.labels[index])
        known = label if not 0 <= label < len(self.classes) else self.classes[label]
        named = None if label < 0 else known
        came = _moment(int(self._since[index])) if self._since[index] else None
        if not self.rank[index]:
            return [*[None] * 5, self.bad[self.ids[index]], named, None, came, *(None for _ in self.columns)]
        numbers = [float(values[index]) for values in self.columns.values()]
        rarity, percentile = float(self.rarity[index]), float(self.percentile[index])
        odd = int(self._places[index]) or None
        kept = self._kept[index]
        copied = None if kept is None else self.ids[kept]
        return [
            rarity,
            int(self.rank[index]),
            percentile,
            int(self.kinds[index]),
            odd,
            None,
            named,
            copied,
            came,
            *numbers,
        ]

    @classmethod
    def read(cls, path: str | Path) -> "Scores":
        """Read a file of `write`.

        Raises:
            InputError: The file does not exist, or has the format of another version.
            DamagedFileError: The file has no scores, or damaged ones.
        """
        path = Path(path)
        table = read_table(path, MINE_AGAIN)
        described = described_by(path, table.schema)
        with parsing(path, MINE_AGAIN):
            ids: list[str] = table["id"].to_pylist()
            for position, exact in described["exact_ids"].items():
                ids[int(position)] = exact
            reasons = table["bad"].to_pylist()
            return cls(
                ids=ids,
                columns={
                    name: _numbers(table, name, np.nan)
                    for name in table.column_names
                    if name not in (*_FIXED, *_MAP, _NEAREST_OLD)
                },
                rarity=_numbers(table, "score", np.nan),
                rank=_numbers(table, "rank", 0),
                percentile=_numbers(table, "percentile", np.nan),
                kinds=_numbers(table, "kind", -1),
                groups=tuple(KindGroup(**group) for group in described["groups"]),
                odd=_in_order(_numbers(table, "odd", 0)),
                bad={image_id: reason for image_id, reason in zip(ids, reasons, strict=True) if reason is not None},
                labels=_numbers(table, "label", -1) if described.get("labeled", described.get("labelled")) else None,
                classes=tuple(described["classes"]),
                score=described["score"],
                about=described["about"],
                projection=_map(table),
                duplicates=tuple(tuple(group) for group in described.get("duplicates", ())),
                label_next=tuple(described.get("label_next", ())),
                since=_seconds(table),
            )


def described_by(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """The description in the metadata of a file of scores.

    Args:
        path: The file.
        schema: Its schema.

    Raises:
        InputError: The file has the format of another version.
        DamagedFileError: The file has no description.
    """
    with parsing(path, MINE_AGAIN):
        described: dict[str, Any] = json.loads((schema.metadata or {}).get(b"sdclr", b"null"))
    if not isinstance(described, dict):
        raise damaged(path, "it holds no scores", MINE_AGAIN)
    if described.get("format") != FORMAT:
        raise InputError(f"{path} has the format {described.get('format')!r}, not {FORMAT!r}: mine the images again")
    return described


def _moment(seconds: int) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _in_order(places: NDArray[Any]) -> NDArray[np.int64]:
    """Positions sorted by rank, 1 first; ranks of 0 are left out."""
    found = np.flatnonzero(places > 0)
    return found[np.argsort(places[found], kind="stable")]


def _numbers(table: pa.Table, name: str, missing: float) -> NDArray[Any]:
    values: NDArray[Any] = table[name].combine_chunks().fill_null(missing).to_numpy(zero_copy_only=False)
    return values


def _seconds(table: pa.Table) -> NDArray[np.int64] | None:
    """Times when images were added; None if all were in the first call."""
    if "new" not in table.column_names:
        return None
    values: NDArray[np.int64] = table["new"].combine_chunks().cast(pa.int64()).fill_null(0).to_numpy() // 1000
    return values if values.any() else None


def _map(table: pa.Table) -> NDArray[np.float32] | None:
    """The map in a file; None for files without one."""
    if not set(_MAP) <= set(table.column_names):
        return None
    return np.stack([_numbers(table, name, np.nan) for name in _MAP], axis=1)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text
