"""Encoders in folders: encoders of finished runs, and exported encoders."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save

from sdclr.config import from_json, to_json
from sdclr.encoders.config import EncoderConfig
from sdclr.encoders.create import create_encoder
from sdclr.encoders.encoder import Encoder
from sdclr.encoders.origin import Origin
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.encoders.weights import file_digest
from sdclr.errors import InputError
from sdclr.files import damaged, parsing, read_json, read_safetensors, with_checksum, write_atomically, write_json
from sdclr.intensities import Intensities
from sdclr.version import __version__

DESCRIPTION = "encoder.json"
WEIGHTS = ("encoder.safetensors", "model.safetensors")
"""Names of the file of weights in a run and in an export."""
_COPIES: Final = f"put back whole copies of {DESCRIPTION} and of the file of weights"


def save_encoder(folder: Path, encoder: Encoder, intensities: Intensities | None = None) -> None:
    """Write `encoder.safetensors`, the backbone's weights under timm's names, and `encoder.json`, their description.

    Args:
        folder: The folder.
        encoder: The encoder.
        intensities: Intensity range of its training images, if they have more than 8 bits.
    """
    if intensities is not None:
        encoder.preprocessing = replace(encoder.preprocessing, intensities=intensities)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    write_atomically(folder / WEIGHTS[0], save(weights))
    write_description(folder, encoder, folder / WEIGHTS[0])


def write_description(folder: Path, encoder: Encoder, weights: Path) -> None:
    """Write `encoder.json`: a description of the encoder, with checksums of the weights and of itself.

    Args:
        folder: The folder.
        encoder: The encoder.
        weights: The file of its weights.
    """
    description = _described(encoder) | {"weights_sha256": file_digest(weights)}
    write_json(folder / DESCRIPTION, with_checksum(description))


def _described(encoder: Encoder) -> dict[str, Any]:
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
    """Whether a folder contains an encoder, of a run or exported."""
    return (folder / DESCRIPTION).is_file() and any((folder / name).is_file() for name in WEIGHTS)


def load_saved(folder: Path) -> Encoder:
    """Load the encoder of a finished run (the dense network without its head) or of an export.

    Raises:
        InputError: If the folder contains no encoder.
        DamagedFileError: If the encoder is damaged.
    """
    description_file = folder / DESCRIPTION
    weights_file = next((file for name in WEIGHTS if (file := folder / name).is_file()), folder / WEIGHTS[0])
    for file in (description_file, weights_file):
        if not file.is_file():
            raise InputError(
                f"{folder} has no {file.name}: let `sdclr pretrain` finish this run, or name another folder"
            )
    description = read_json(description_file, _COPIES, keys={"encoder": dict, "image_size": int})
    size = description["image_size"]
    with parsing(description_file, _COPIES):
        preprocessing = from_json(Preprocessing, {"image_size": size, **description.get("preprocessing", {})})
        origin = Origin(**description["origin"]) if description.get("origin") else None
        with torch.random.fork_rng(devices=[]):  # the random weights are replaced below
            built = create_encoder(from_json(EncoderConfig, description["encoder"]), size)
    weights = read_safetensors(weights_file, _COPIES)
    told = description.get("weights_sha256")
    if told is not None and told != file_digest(weights_file):
        raise damaged(weights_file, f"it has another checksum than {description_file} says", _COPIES)
    with parsing(weights_file, _COPIES):
        built.backbone.load_state_dict(weights)
    return Encoder(built.backbone, built.config, size, preprocessing=preprocessing, origin=origin).eval()
