"""Image sources listed in a manifest."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdclr.data.annotations import check_unique, encode_labels
from sdclr.data.image_files import ImageFiles, Items
from sdclr.data.manifest_rows import as_local, read_manifest
from sdclr.errors import InputError


class ManifestSource(ImageFiles):
    """Images listed by a CSV or Parquet file, or by a text file with one `path label` per line.

    CSV and Parquet need a column `path` (or `image`, `file`, `filename`, `file_name`); `label` (whole numbers or names)
    and `id` are optional, other columns are ignored. An empty label is unknown. CSV columns are separated by commas,
    semicolons, tabs or bars; the text is UTF-8, UTF-16 or Latin-1. A text file has the format of the published ImageNet
    lists: a path and, after the last blank, an optional class number.

    Paths may be Windows paths. If a path has a drive letter, leading folders are removed until the rest is found below
    the root. Each page of a multi-page TIFF file is a separate image, with the ids `ID#1`, `ID#2`, …; a path such as
    `stack.tif#3` selects one page.

    Several labels per image are attributes, in one of two forms. A column `attributes` lists the attributes of an
    image, `hat;dog` or `hat|dog`, and is empty if there are none; Parquet may also hold lists of names or numbers, and
    a null list is unknown. Alternatively, each attribute has a column, named `attr:hat`, `attr:dog`: 1 or true if the
    image shows it, 0, false or -1 if not, and empty if unknown. In pandas, `frame.add_prefix("attr:")` names them.

    Args:
        path: The manifest.
        root: The folder that relative paths refer to; by default the manifest's folder.

    Raises:
        InputError: The manifest is missing, unreadable or empty, has no path column, names an image twice, or has an
            invalid indicator.
    """

    def __init__(self, path: Path | str, *, root: Path | str | None = None) -> None:
        manifest = Path(path)
        self.name = manifest.stem
        place = Path(root) if root is not None else manifest.parent
        rows = read_manifest(manifest, place)
        if not rows.paths:
            raise InputError(f"{manifest}: lists no images; give one row for each image")
        for row, entry in enumerate(rows.paths):
            if not entry:
                where = f"line {rows.lines[row]}" if rows.lines else f"row {row + 1}"
                raise InputError(f"{manifest}: {where} has an empty path; fill it in or remove the row")
        paths = as_local(rows.paths, place, manifest, rows.lines)
        ids = [_relative(path, place) for path in paths] if rows.ids is None else [str(name) for name in rows.ids]
        items = Items.of(place, paths, ids)
        self.skipped = items.bad
        super().__init__(place, items.paths, items.ids, items.pages)
        if not items.ids:
            raise InputError(f"{manifest}: none of its images can be used; the first: {items.bad[0].reason}")
        check_unique(self.ids, str(manifest), "remove the repetition, or add a column `id` with unique values")
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        if rows.labels is not None:
            self.labels, self.classes = encode_labels(rows.labels, str(manifest))
        self.attributes = None if rows.attributes is None else rows.attributes.values
        self.attribute_names = () if rows.attributes is None else rows.attributes.names
        if items.rows is not None:
            self.labels = None if self.labels is None else self.labels[items.rows]
            self.attributes = None if self.attributes is None else self.attributes[items.rows]


def _relative(entry: str, root: Path) -> str:
    path = Path(entry)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    return path.as_posix()
