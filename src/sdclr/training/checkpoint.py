"""Checkpoints that survive a crash at any moment: written under another name, synced, renamed; two are kept."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sdclr.errors import DamagedFileError, InputError
from sdclr.files import damaged, read_bytes, read_state, remove, require_space, write_atomically
from sdclr.files.reading import Keys

KEPT = 2
_COPIES: Final = "put back whole copies of it and of its checksum, or name another checkpoint"


def check_space(folder: Path, module: nn.Module) -> None:
    """Check before a training that a checkpoint of it can be written.

    Args:
        folder: Where it will lie.
        module: What is trained; its optimizer keeps one number or more for each weight.

    Raises:
        StorageError: The disk has too little space.
    """
    trained = sum(weights.nbytes for weights in module.parameters() if weights.requires_grad)
    require_space(folder, trained + sum(values.nbytes for values in module.state_dict().values()))


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
            remove(file)
    return path


def save_snapshot(folder: Path, state: dict[str, Any], epoch: int) -> None:
    """Write the state of network and competitor after `epoch` epochs; what others wrote before stays."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / f"epoch-{epoch:05d}.pt", buffer.getbuffer())


def load_snapshot(folder: Path, epoch: int) -> tuple[dict[str, Any], Path]:
    """The state after `epoch` epochs, and where it lies.

    Raises:
        InputError: If it is not there or cannot be read.
    """
    path = folder / f"epoch-{epoch:05d}.pt"
    there = ", ".join(str(number) for number in snapshot_epochs(folder) if number != epoch) or "none"
    return read_state(path, f"name the epoch of another snapshot; there are those of epochs: {there}", keys={}), path


def snapshot_epochs(folder: Path) -> list[int]:
    """The epochs of which there is a snapshot, rising."""
    names = [path.stem.removeprefix("epoch-") for path in folder.glob("epoch-*.pt")]
    return sorted(int(name) for name in names if name.isdecimal())


def load_checkpoint(folder: Path, keys: Keys | None = None) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint that is whole, and where it lies; None if there is none.

    A damaged one is passed over with a warning that names it.

    Args:
        folder: Where they lie.
        keys: What a state must hold, and its types.

    Raises:
        DamagedFileError: If there are checkpoints and every one is damaged.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            return read_checkpoint(path, keys or {}), path
        except InputError:
            warnings.warn(f"{path} is damaged and skipped", stacklevel=2)
    if paths:
        raise DamagedFileError(
            f"every checkpoint in {folder} is damaged: restore a copy, or remove the folder to start again"
        )
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """Where the newest checkpoint lies or, if it is lost, has lain; None if there is none."""
    return max((path.with_suffix(".pt") for path in folder.glob("step-*")), default=None)


def read_checkpoint(path: Path, keys: Keys, remedy: str = _COPIES) -> dict[str, Any]:
    """The state in a checkpoint, whose bytes must be those that were written.

    Args:
        path: The file.
        keys: What the state must hold, and its types.
        remedy: How to make it again.

    Raises:
        InputError: It or its checksum is missing.
        DamagedFileError: It is damaged.
    """
    data, expected = read_bytes(path, remedy), read_bytes(_sum_of(path), remedy)
    if expected.strip() != hashlib.sha256(data).hexdigest().encode():
        raise damaged(path, "it has another checksum", remedy)
    return read_state(path, remedy, keys=keys, data=data)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")
