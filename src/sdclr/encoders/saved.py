"""Encoders in folders: those of finished runs, and exported ones."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sdclr.config import from_json, to_json
from sdclr.encoders.config import EncoderConfig
from sdclr.encoders.create import create_encoder
from sdclr.encoders.encoder import Encoder
from sdclr.encoders.origin import Origin
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.errors import InputError, SettingError
from sdclr.files import read_json, write_atomically, write_json
from sdclr.version import __version__

DESCRIPTION = "encoder.json"
WEIGHTS = ("encoder.safetensors", "model.safetensors")
"""Names of the file of weights: in a run, and in an export."""


def save_encoder(folder: Path, encoder: Encoder) -> None:
    """Write `encoder.safetensors`, the backbone's weights under timm's names, and `encoder.json`, what they fit."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    write_atomically(folder / WEIGHTS[0], save(weights))
    write_json(folder / DESCRIPTION, describe_encoder(encoder))


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """The contents of `encoder.json`."""
    return {
        "format": "sdclr-encoder-1",
        "sdclr": __version__,
        "encoder": to_json(encoder.config),
        "image_size": encoder.image_size,
        "preprocessing": to_json(encoder.preprocessing),
        "num_features": encoder.num_features,
        "origin": None if encoder.origin is None else asdict(encoder.origin),
    }


def is_saved_encoder(folder: Path) -> bool:
    """Whether a folder holds an encoder, of a run or exported."""
    return (folder / DESCRIPTION).is_file() and any((folder / name).is_file() for name in WEIGHTS)


def load_saved(folder: Path) -> Encoder:
    """The encoder of a finished run (the dense network without its head) or of an export.

    Raises:
        InputError: If the folder holds no encoder or a damaged one.
    """
    description_file = folder / DESCRIPTION
    weights_file = next((file for name in WEIGHTS if (file := folder / name).is_file()), folder / WEIGHTS[0])
    for file in (description_file, weights_file):
        if not file.is_file():
            raise InputError(
                f"{folder} has no {file.name}: let `sdclr pretrain` finish this run, or name another folder"
            )
    description = read_json(description_file)
    try:
        size = description["image_size"]
        preprocessing = from_json(Preprocessing, {"image_size": size, **description.get("preprocessing", {})})
        origin = Origin(**description["origin"]) if description.get("origin") else None
        with torch.random.fork_rng(devices=[]):  # the random weights are about to be replaced
            built = create_encoder(from_json(EncoderConfig, description["encoder"]), size)
        built.backbone.load_state_dict(load_file(weights_file))
    except SettingError as error:
        raise InputError(f"{description_file}: {error}; put back a whole copy of it") from error
    except (KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise InputError(
            f"{weights_file} does not hold the weights that {description_file} describes "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]}): put back a whole copy of both"
        ) from error
    return Encoder(built.backbone, built.config, size, preprocessing=preprocessing, origin=origin).eval()
