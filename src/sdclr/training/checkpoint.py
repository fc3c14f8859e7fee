"""Checkpoints that survive a crash at any moment: written aside, synced, renamed; the newest two are kept."""

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from sdclr.errors import InputError
from sdclr.files import write_atomically

KEPT = 2


def save_checkpoint(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write the state after `step` steps and remove all but it and the newest before it.

    Later ones go too: the run has come here from an earlier state because they were damaged.

    A checkpoint is a file that `torch.load(…, weights_only=True)` reads, beside the SHA-256 of its bytes, which is
    written first: a checkpoint without its sum, or with another, is taken for damaged.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    path = folder / f"step-{step:09d}.pt"
    write_atomically(_sum_of(path), hashlib.sha256(data).hexdigest().encode())
    write_atomically(path, data)
    kept = [old for old in _newest_first(folder) if old <= path][:KEPT]
    for file in folder.iterdir():
        ours = file.name.lstrip(".").startswith("step-")  # with a dot: what a crash left half-written
        if ours and file not in kept and file not in map(_sum_of, kept):
            file.unlink()
    return path


def save_snapshot(folder: Path, state: dict[str, Any], epoch: int) -> None:
    """Write the state of network and competitor after `epoch` epochs; what others wrote before stays."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / f"epoch-{epoch:05d}.pt", buffer.getbuffer())


def load_snapshot(folder: Path, epoch: int) -> dict[str, Any]:
    """The state after `epoch` epochs.

    Raises:
        InputError: If it is not there or cannot be read.
    """
    path = folder / f"epoch-{epoch:05d}.pt"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        there = ", ".join(str(number) for number in snapshot_epochs(folder)) or "none"
        raise InputError(f"{path} is no snapshot that can be read; there are those of epochs: {there}") from error
    return state


def snapshot_epochs(folder: Path) -> list[int]:
    """The epochs of which there is a snapshot, rising."""
    return sorted(int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*.pt"))


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint that is whole, and where it lies; None if there is none.

    A damaged one is passed over with a warning that names it.

    Raises:
        InputError: If there are checkpoints and every one is damaged.
    """
    paths = _newest_first(folder)
    for path in paths:
        data = _whole(path)
        if data is not None:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return state, path
        warnings.warn(f"{path} is damaged and passed over", stacklevel=2)
    if paths:
        raise InputError(
            f"every checkpoint in {folder} is damaged: put back a copy, or remove the folder to start anew"
        )
    return None


def _whole(path: Path) -> bytes | None:
    """The bytes of a checkpoint; None if they are not those that were written, or cannot be read."""
    try:
        data, expected = path.read_bytes(), _sum_of(path).read_bytes()
    except OSError:
        return None
    return data if expected.strip() == hashlib.sha256(data).hexdigest().encode() else None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")
