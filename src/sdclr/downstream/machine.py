"""The number format that a classifier is trained in: settled at the start and kept when the training goes on."""

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
    """The type of products and convolutions: what is told, else what the folder notes, else the faster one.

    Args:
        model: The classifier at its start, on the device; it is not changed.
        stage: The stage that is timed.
        look: Precision asked for, image size and device.
        batch: Images of a step.
        folder: That of the training, which notes what was settled in `machine.json`.

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
