"""Small collections, and whether anything touched them."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdclr.files import csv_bytes


def save_picture(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def whole_tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: contents of files, targets of links, and times of both."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            status = path.lstat()
            if path.is_symlink():
                found[str(path)] = f"link {path.readlink()}"
            elif path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = f"{digest} {status.st_mtime_ns} {status.st_mode}"
            else:
                found[str(path)] = f"folder {status.st_mode}"
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images in two folders and one beside them."""
    root = tmp_path / "images"
    for number, name in enumerate(["a/0.png", "a/1.png", "b/0.png", "b/deep/2.png", "b/3.png", "top.png"]):
        save_picture(root / name, number)
    return root


@pytest.fixture
def marked(tmp_path: Path, images: Path) -> Callable[..., Path]:
    """Writes a file of marks as the page does: `marked({id: "drop" or "=label" or "keep=label"})`."""

    def write(said: dict[str, str], name: str = "marks.csv", root: Path | None = images) -> Path:
        rows = []
        for image_id, text in said.items():
            mark, _, label = text.partition("=")
            rows.append(("" if root is None else str(root / image_id), image_id, mark, label))
        path = tmp_path / name
        path.write_bytes(csv_bytes([("path", "id", "mark", "label"), *rows]))
        return path

    return write


@pytest.fixture(scope="session")
def picture() -> Callable[..., Path]:
    """Saves a small picture: `picture(path, number)`."""
    return save_picture


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, str]]:
    """Everything below a folder, so that a change of anything shows."""
    return whole_tree
