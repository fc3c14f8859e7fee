"""Checkpoints that survive a crash at any moment: written aside, synced, renamed; the newest two are kept."""

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

KEPT = 2


def write_atomically(path: Path, data: bytes) -> None:
    """Put a file in its place whole or not at all, on disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too, must survive a power cut
    finally:
        os.close(folder)


def save_checkpoint(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write the state after `step` steps and remove all but the newest two checkpoints.

    A checkpoint is a file that `torch.load(…, weights_only=True)` reads, beside the SHA-256 of its
    bytes, which is written first: a checkpoint without its sum, or with another, is taken for damaged.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}.pt"
    write_atomically(_sum_of(path), hashlib.sha256(data).hexdigest().encode())
    write_atomically(path, data)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
        _sum_of(old).unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint that is whole, and where it lies; None if there is none.

    A damaged one is passed over with a warning that names it.
    """
    for path in _newest_first(folder):
        data = path.read_bytes()
        sum_file = _sum_of(path)
        if not sum_file.exists() or sum_file.read_text().strip() != hashlib.sha256(data).hexdigest():
            warnings.warn(f"{path} is damaged and passed over", stacklevel=2)
            continue
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state, path
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")
