"""Checkpoints that survive a crash at any time: written under another name, synced and renamed. Two are kept."""

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
    """Check before a training that the disk has space for a checkpoint.

    Args:
        folder: Folder of the checkpoints.
        module: The trained module; its optimizer stores one or more numbers per weight.

    Raises:
        StorageError: The disk has too little space.
    """
    trained = sum(weights.nbytes for weights in module.parameters() if weights.requires_grad)
    require_space(folder, trained + sum(values.nbytes for values in module.state_dict().values()))


def save_checkpoint(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write the state after `step` steps. Remove all checkpoints except it and the newest one before it.

    Checkpoints of later steps are removed too: they were damaged, so the run resumed from an earlier state.

    A checkpoint is a file for `torch.load(…, weights_only=True)`, with the SHA-256 of its bytes in a second file, which
    is written first. A checkpoint with a missing or different checksum counts as damaged.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    path = folder / f"step-{step:09d}.pt"
    write_atomically(_sum_of(path), hashlib.sha256(data).hexdigest().encode())
    write_atomically(path, data)
    kept = [old for old in _newest_first(folder) if old <= path][:KEPT]
    for file in folder.iterdir():
        ours = file.name.lstrip(".").startswith("step-")  # with a dot: half-written before a crash
        if ours and file not in kept and file not in map(_sum_of, kept):
            remove(file)
    return path


def save_snapshot(folder: Path, state: dict[str, Any], epoch: int) -> None:
    """Write the state of network and competitor after `epoch` epochs. Other snapshots stay."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / f"epoch-{epoch:05d}.pt", buffer.getbuffer())


def load_snapshot(folder: Path, epoch: int) -> tuple[dict[str, Any], Path]:
    """The state after `epoch` epochs, and its file.

    Raises:
        InputError: If it does not exist or cannot be read.
    """
    path = folder / f"epoch-{epoch:05d}.pt"
    there = ", ".join(str(number) for number in snapshot_epochs(folder) if number != epoch) or "none"
    return read_state(path, f"name the epoch of another snapshot; there are those of epochs: {there}", keys={}), path


def snapshot_epochs(folder: Path) -> list[int]:
    """The epochs with a snapshot, in ascending order."""
    names = [path.stem.removeprefix("epoch-") for path in folder.glob("epoch-*.pt")]
    return sorted(int(name) for name in names if name.isdecimal())


def load_checkpoint(folder: Path, keys: Keys | None = None) -> tuple[dict[str, Any], Path] | None:
    """The newest undamaged checkpoint, and its file; None if there is no checkpoint.

    Damaged ones are skipped with a warning.

    Args:
        folder: Folder of the checkpoints.
        keys: Required keys of the state, and their types.

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
    """File of the newest checkpoint, even if only its checksum is left; None if there is none."""
    return max((path.with_suffix(".pt") for path in folder.glob("step-*")), default=None)


def step_of(path: Path) -> int:
    """Number of steps before a checkpoint, by the name of its file."""
    return int(path.stem.removeprefix("step-"))


def read_checkpoint(path: Path, keys: Keys, remedy: str = _COPIES) -> dict[str, Any]:
    """The state in a checkpoint, after a check of its checksum.

    Args:
        path: The file.
        keys: Required keys of the state, and their types.
        remedy: Advice for the error message.

    Raises:
        InputError: The file or its checksum is missing.
        DamagedFileError: The file is damaged.
    """
    data, expected = read_bytes(path, remedy), read_bytes(_sum_of(path), remedy)
    if expected.strip() != hashlib.sha256(data).hexdigest().encode():
        raise damaged(path, "it has another checksum", remedy)
    return read_state(path, remedy, keys=keys, data=data)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")
