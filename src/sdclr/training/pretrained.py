"""Models of timm's with trained weights, as encoders."""

import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from sdclr.encoders import Encoder, create_encoder
from sdclr.errors import InputError
from sdclr.training.origin import timm_encoder, timm_parts
from sdclr.training.weights import read_weights


def load_pretrained(spec: str) -> tuple[Encoder, str, str]:
    """The encoder that `timm:NAME` or `timm:NAME=FILE` names, at its own input size, in eval mode on the CPU.

    Returns:
        The encoder, where its weights were read from, and the SHA-256 of the file or, without one, of the weights.

    Raises:
        InputError: If timm has no such model or no weights for it, or the file does not hold them.
    """
    name, file = timm_parts(spec)
    config: Any = timm.get_pretrained_cfg(name)
    with torch.random.fork_rng(devices=[]):
        encoder = create_encoder(timm_encoder(name), int(config.input_size[-1]))
    if file is not None:
        return _from_file(encoder, name, file)
    try:
        backbone = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"the weights of {spec} cannot be had ({str(error).partition(chr(10))[0]}): give timm:{name}=FILE with a "
            "file of them"
        ) from error
    encoder.backbone.load_state_dict(backbone.state_dict())
    digest = hashlib.sha256(save(dict(backbone.state_dict()))).hexdigest()
    return encoder.eval(), f"Hugging Face Hub: {config.hf_hub_id}", digest


def _from_file(encoder: Encoder, name: str, file: Path) -> tuple[Encoder, str, str]:
    state = read_weights(file)
    names = list(timm.create_model(name).state_dict())
    if len(state) == len(names):  # in timm's order, under names of another library
        state = dict(zip(names, state.values(), strict=True))
    wanted: dict[str, Tensor] = encoder.backbone.state_dict()
    encoder.backbone.load_state_dict({key: state[key] for key in wanted})
    return encoder.eval(), str(file), hashlib.sha256(file.read_bytes()).hexdigest()
