"""Weights in files: by name, finite, and nothing but weights."""

import pickle
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdclr.errors import InputError

PICKLED: Final = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Ends of the names of files that `torch.load` reads; weights alone are taken from them, and no code is run."""

_KEYS: Final = ("state_dict", "model", "objective")
"""Where a training state keeps its weights."""
_NAMED: Final = 3
"""Weights that an error names, of each kind."""


Weights = dict[str, Tensor]


def read_weights(file: Path) -> Weights:
    """All tensors of a file, by name.

    Raises:
        InputError: If it cannot be read, or holds more than weights or numbers that are not finite.
    """
    suffix = file.suffix.lower()
    if suffix != ".safetensors" and suffix not in PICKLED:
        raise InputError(f"{file} is no file of weights: name one that ends in .safetensors, {', '.join(PICKLED)}")
    try:
        values: Any = (
            load_file(file) if suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file} holds more than weights, or is damaged: save `model.state_dict()` alone, best as .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file} cannot be read ({reason}): put back a whole copy") from error
    for key in _KEYS:
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    items = values.items() if isinstance(values, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{file} holds no weights by name: save `model.state_dict()`")
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError(f"{file} holds numbers that are not finite in {some(broken)}: take an earlier checkpoint")
    return tensors


def some(names: list[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
