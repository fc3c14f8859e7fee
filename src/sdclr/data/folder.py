"""Image sources that are folders of files."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdclr.data.image_files import ImageFiles, Items
from sdclr.decoding.decode import BadImage
from sdclr.decoding.formats import OTHER_SUFFIX, SUFFIXES, unread, unread_line
from sdclr.errors import InputError
from sdclr.progress import stage


class FolderSource(ImageFiles):
    """All images below a folder, in the order of their paths.

    Images are recognized by suffix; other files are listed in `skipped` and never opened. Hidden files and folders are
    left out. Links are followed, but no folder is entered twice. If every image is in a subfolder, and there are at
    least two of them, the first subfolder on its path is its class. Each page of a multi-page TIFF file is a separate
    image, `stack.tif#3`.

    Args:
        root: The folder.

    Raises:
        InputError: The folder is missing or holds no images.
    """

    def __init__(self, root: Path | str) -> None:
        place = Path(root)
        if not place.is_dir():
            raise InputError(f"{root} is not a folder; check the path")
        self.name = place.absolute().name
        files, skipped = _walk(place)
        items = Items.of(place, files)
        self.skipped = sorted([*skipped, *items.bad])
        super().__init__(place, items.paths, items.ids, items.pages)
        if not items.ids:
            hint = f"{len(self.skipped)} other files are there; " if self.skipped else ""
            if line := unread_line(entry.reason for entry in self.skipped):
                raise InputError(f"{root}: holds no images that can be read; {line}")
            if any(place.glob("*.tar")):
                raise InputError(f"{root}: holds tar files and no images; give wds:{root} if they are shards of images")
            known = " ".join(sorted(SUFFIXES))
            raise InputError(f"{root}: holds no images; {hint}give a folder with files that end in one of {known}")
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        folders = {file.partition("/")[0] for file in self.ids}
        if len(folders) > 1 and all("/" in file for file in self.ids):
            self.classes = tuple(sorted(folders))
            number_of = {name: number for number, name in enumerate(self.classes)}
            self.labels = np.array([number_of[file.partition("/")[0]] for file in self.ids], dtype=np.int64)


def _walk(root: Path) -> tuple[list[str], list[BadImage]]:
    """Relative paths of the images below a folder, sorted, and the skipped files."""
    images, skipped = [], []
    entered: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        skipped.append(
            BadImage(Path(error.filename).relative_to(root).as_posix(), "folder cannot be read", counted=False)
        )

    with stage("listing files") as update:
        for place, folders, files in os.walk(root, followlinks=True, onerror=unreadable):
            status = Path(place).stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = Path(place).relative_to(root)
            for name in files:
                if name.startswith("."):
                    continue
                reason = unread(name)
                if reason is None and Path(name).suffix.lower() in SUFFIXES:
                    images.append((below / name).as_posix())
                else:
                    reason = reason or OTHER_SUFFIX
                    skipped.append(BadImage((below / name).as_posix(), reason, counted=False))
            update(len(images))
    return sorted(images), skipped
