"""The number format of a classifier's training, chosen at the start and kept when the training resumes."""

import copy
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from sdclr.downstream.methods import Model, Stage
from sdclr.downstream.scoring import Look
from sdclr.fastest import structure
from sdclr.files import read_json, write_json
from sdclr.training.machine import Choice, possible_dtypes

_AGAIN: Final = "put back a whole copy of it, or train into another folder"


def settle_dtype(model: Model, stage: Stage, look: Look, *, batch: int, folder: Path) -> torch.dtype | None:
    """Choose the type of products and convolutions: a given one first, then a stored one, then the fastest.

    Args:
        model: The initial classifier, on the device; it is not changed.
        stage: The stage to time.
        look: Precision setting, image size and device.
        batch: Images per step.
        folder: Folder of the training, whose `machine.json` stores the choice.

    Returns:
        The type; None for float32.
    """
    noted = folder / "machine.json"
    before = read_json(noted, _AGAIN, keys={"precision": str})["precision"] if noted.is_file() else None
    dtypes = possible_dtypes(look.amp, before, look.device, image_size=look.image_size)
    choice = Choice(dtypes=dtypes, threads=(torch.get_num_threads(),))
    copies: list[Model] = []

    def step(images: Tensor) -> None:
        if not copies:
            copies.append(copy.deepcopy(model))
            stage.trained(copies[0]).requires_grad_(requires_grad=True).train()
        views = images.contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64)
        copies[0].zero_grad(set_to_none=True)
        stage.loss(copies[0], views, labels, 0.0).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    settled = choice.settled or choice.fastest(
        step,
        shape=(3, look.image_size, look.image_size),
        batch=batch,
        about={"network": structure(model), "stage": stage.name},
    )
    if before is None:
        write_json(noted, {"precision": settled.precision})
    return settled.dtype
