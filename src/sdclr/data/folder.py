"""Image sets that are a folder of files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdclr.data.decode import SUFFIXES, BadImage, decode_image
from sdclr.data.stored import Stored
from sdclr.errors import InputError
from sdclr.progress import stage


class FolderSource:
    """Every image below a folder, in the order of their paths.

    Files are recognised by suffix; the others are listed in `skipped` and never opened. Hidden files and folders are
    left out, links are followed but no folder is entered twice. Where every image lies in a sub-folder, and there are
    at least two of them, the first sub-folder on its path is its class.

    Args:
        root: The folder.

    Raises:
        InputError: The folder is missing or holds no images.
    """

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root)
        if not self._root.is_dir():
            raise InputError(f"{root}: is no folder; check the path")
        self.name = self._root.absolute().name
        files, self.skipped = _walk(self._root)
        self.ids: Sequence[str] = files
        if not files:
            hint = f"{len(self.skipped)} other files are there; " if self.skipped else ""
            known = " ".join(sorted(SUFFIXES))
            raise InputError(f"{root}: holds no images; {hint}give a folder with files that end in one of {known}")
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        folders = {file.partition("/")[0] for file in files}
        if len(folders) > 1 and all("/" in file for file in files):
            self.classes = tuple(sorted(folders))
            number_of = {name: number for number, name in enumerate(self.classes)}
            self.labels = np.array([number_of[file.partition("/")[0]] for file in files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Decode one image to RGB, `(H, W, 3)`; see `decode_image`."""
        return decode_image(self.file(index), image_id=self.ids[index], min_side=min_side)

    def file(self, index: int) -> Path:
        """The file of an image."""
        return self._root / self.ids[index]

    def stored(self, index: int) -> Stored:
        """Where an image lies; see `stored_image`."""
        return Stored(self.file(index), None, type(self).__qualname__)


def _walk(root: Path) -> tuple[list[str], list[BadImage]]:
    """Relative paths of the images below a folder, sorted, and what was passed over."""
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
                if Path(name).suffix.lower() in SUFFIXES:
                    images.append((below / name).as_posix())
                else:
                    skipped.append(BadImage((below / name).as_posix(), "no image by its suffix", counted=False))
            update(len(images))
    return sorted(images), sorted(skipped)
