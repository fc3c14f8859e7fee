"""Published lists: `.npy` vectors of positions in a set, and text files with one `path label` per line."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sdclr.data.drawing import check_indices
from sdclr.data.image_files import ImageFiles
from sdclr.data.manifest import ManifestSource
from sdclr.decoding.formats import SUFFIXES
from sdclr.errors import InputError
from sdclr.files import read_array

PathList: TypeAlias = tuple[Sequence[str], NDArray[np.int64]]
"""Relative paths of images, and their class numbers `(N,)`."""


def load_index_list(path: Path | str, *, size: int | None = None) -> NDArray[np.int64]:
    """Read a published index list: a `.npy` vector of positions in a set. The order is kept.

    The published CIFAR lists refer to the order of the original batches (the order of torchvision's data sets). They do
    not fit a copy of the same images in another order, such as some Parquet files.

    Args:
        path: The `.npy` file.
        size: Number of images in the set; by default only negative indices raise an error.

    Returns:
        The indices, `(M,)`.

    Raises:
        InputError: The file is missing or not a vector of integers, or an index is repeated or out of range.
    """
    values = read_array(Path(path), "save the index vector alone with numpy.save, or fetch it again")
    return check_indices(values, size, str(path))


class ListedSource(ImageFiles):
    """Labeled image files below one folder, in the given order.

    Args:
        root: The folder.
        ids: Their paths relative to it, with forward slashes.
        labels: Class ids, `(N,)`.
        classes: Class names.
        name: Short name, for reports.
    """

    def __init__(
        self, root: Path, ids: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str], name: str
    ) -> None:
        super().__init__(root, ids, ids)
        self.labels: NDArray[np.int64] | None = labels
        self.classes = tuple(classes)
        self.name = name


def read_path_list(path: Path) -> PathList:
    """Read a published text list, one `path label` per line. The order is kept.

    Args:
        path: The `.txt` file.

    Returns:
        The paths as written in the file, and the class numbers `(N,)`.

    Raises:
        InputError: The file is missing or empty, names an image twice, or lines have no class number.
    """
    listed = ManifestSource(path)
    if listed.labels is None:
        without = [line for line in listed.ids if re.search(r"\s\d+$", line) is None]
        raise InputError(
            f"{path}: {len(without)} of {len(listed)} lines have no class number, as {without[0]!r}; give lines of "
            "the form `path label`"
        )
    return listed.ids, listed.labels


def find_list(lists: Path, folder: str, file: str) -> Path | None:
    """Find a published list in `lists/folder`, in `lists`, or in `folder` next to `lists`."""
    places = (lists / folder / file, lists / file, lists.absolute().parent / folder / file)
    return next((place for place in places if place.is_file()), None)


def find_lists(lists: Path, folder: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Find several lists that belong together, by the names of their parts; see `find_list`.

    Raises:
        InputError: Some are missing.
    """
    found = {part: find_list(lists, folder, file) for part, file in files.items()}
    if missing := [files[part] for part, path in found.items() if path is None]:
        raise InputError(
            f"{lists}: {len(missing)} of the {len(files)} lists of this split are missing ({', '.join(missing)}); "
            f"give the folder {folder}/ that holds them, or the one around it"
        )
    return {part: path for part, path in found.items() if path is not None}


def check_list_size(path: Path, found: int, expected: int, slack: int = 0) -> None:
    """Check that a list has the published size.

    Raises:
        InputError: The sizes differ by more than `slack`.
    """
    if abs(found - expected) > slack:
        published = f"{expected - slack:,} to {expected + slack:,}" if slack else f"{expected:,}"
        raise InputError(f"{path}: lists {found:,} images and the published list has {published}; fetch it again")


def agreed_classes(lists: Mapping[Path, PathList], num_classes: int) -> list[str]:
    """Return the class folder of each class number, and check that all lists agree.

    Args:
        lists: The contents of each file; the other lists are compared with the first.
        num_classes: Expected number of classes.

    Returns:
        Folder names by number.

    Raises:
        InputError: The first list has other classes, or another one has images of unknown classes.
    """
    first = next(iter(lists))
    folder_of: dict[int, str] = {}
    for image_id, number in zip(*lists[first], strict=True):
        folder_of.setdefault(int(number), _class_folder(image_id))
    if sorted(folder_of) != list(range(num_classes)):
        raise InputError(
            f"{first}: lists {len(folder_of)} classes, numbered {min(folder_of)} to {max(folder_of)}; the published "
            f"list has {num_classes}, numbered 0 to {num_classes - 1}"
        )
    for path, (ids, numbers) in lists.items():
        wrong = [
            f"{image_id} {number}"
            for image_id, number in zip(ids, numbers.tolist(), strict=True)
            if folder_of.get(number) != _class_folder(image_id)
        ]
        if wrong:
            raise InputError(
                f"{path}: {len(wrong):,} of {len(ids):,} images are of classes that {first.name} does not have by this "
                f"number and folder ({some_of(wrong)}); give lists that belong together"
            )
    return [folder_of[number] for number in range(num_classes)]


def some_of(names: Sequence[str] | NDArray[np.str_]) -> str:
    """The first three names, for an error message."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _class_folder(image_id: str) -> str:
    return image_id.rpartition("/")[0].rpartition("/")[2]


def list_class_folders(root: Path, part: str, classes: Iterable[str] | None = None) -> dict[str, list[str]]:
    """List the images of each class folder of `root/part`.

    Args:
        root: The folder of the data set.
        part: "train" or "val".
        classes: Which class folders; by default all.

    Returns:
        For each class the sorted paths relative to `root`; empty if the class has no folder.

    Raises:
        InputError: `root/part` is not a folder.
    """
    place = root / part
    if not place.is_dir():
        raise InputError(f"{place} is not a folder; give a data set with train/ and val/, each with one folder a class")
    if classes is None:
        classes = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and entry.name[0] != ".")
    return {
        name: [f"{part}/{name}/{file}" for file in _files(place / name) if Path(file).suffix.lower() in SUFFIXES]
        for name in classes
    }


def missing_files(root: Path, ids: Iterable[str]) -> list[str]:
    """Return the listed files that do not exist. Each folder is listed once."""
    folders: dict[str, list[str]] = {}
    for image_id in dict.fromkeys(ids):
        folders.setdefault(image_id.rpartition("/")[0], []).append(image_id)
    missing = []
    for folder, members in folders.items():
        there = set(_files(root / folder))
        missing += [image_id for image_id in members if image_id.rpartition("/")[2] not in there]
    return missing


def _files(folder: Path) -> list[str]:
    """The sorted names in a folder, without hidden files; empty if the folder does not exist."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  # up to a million names: avoid a Path for each
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name[0] != ".")
