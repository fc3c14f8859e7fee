"""Start from an encoder that is trained already: a run's, or a file of weights under timm's names."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from sdclr.config import from_json
from sdclr.encoders import CIFAR_RESNETS, Encoder, EncoderConfig, Network
from sdclr.errors import InputError
from sdclr.files import read_json

PICKLED: Final = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Ends of the names of files that `torch.load` reads; weights alone are taken from them, and no code is run."""

_KEYS: Final = ("state_dict", "model", "objective")
"""Where a training state keeps its weights."""
_PREFIXES: Final = ("module.", "_orig_mod.", "network.", "model.", "backbone.", "encoder.")
"""What wrappers put before the names of weights."""
_NAMED: Final = 3
"""Weights that an error names, of each kind."""

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where an encoder's first weights came from."""

    file: str
    """The file that was read."""
    sha256: str
    """Of its bytes, in hexadecimal."""
    left_out: tuple[str, ...] = ()
    """What else it holds: the weights of a classifier, and modules beside the encoder."""
    resized: tuple[str, ...] = ()
    """Position embeddings that were brought from another grid of patches to this one's."""


def load_start(network: Network, path: str | Path) -> Start:
    """Put trained weights into a network's encoder. The projection head stays as it is: random.

    Call it before a competitor or a momentum network is made of the network: both begin as copies of parts of it.

    What may be named:

    - a finished run's folder, or any with `encoder.json` and `encoder.safetensors`; the same normalisation of the input
      is asked of the network;
    - a file of weights under timm's names: `.safetensors`, or one that torch writes (`PICKLED`), of a bare state
      dictionary or one under `state_dict` or `model`, a run's snapshots and checkpoints among them. Prefixes such as
      `module.` and `backbone.` are taken off; a classifier and what lies beside the encoder are left out.

    Stem, patches and width must be those of the file. Position embeddings of another number of patches, as when the
    images have another size, are interpolated.

    Args:
        network: Changed in place. Nothing is changed if this raises.
        path: The folder or the file.

    Returns:
        What was read.

    Raises:
        InputError: If there is no such file, it holds more than weights or damaged ones, or they do not fit.
    """
    path = Path(path).expanduser()
    file = _encoder_file(path, network.encoder) if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no {file} to start from: name a run's folder or a file of weights")
    backbone = network.encoder.backbone
    wanted: Weights = backbone.state_dict()
    found, left_out = _stripped(_read(file), wanted)
    weights, resized = _resized(found, wanted, backbone)
    classifier = sorted(name for name in weights if name not in wanted and _is_classifier(network.encoder, name))
    weights = {name: weight for name, weight in weights.items() if name not in classifier}
    _check(weights, wanted, file, network.encoder)
    backbone.load_state_dict({**wanted, **weights})
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Start(file=str(file), sha256=digest, left_out=(*left_out, *classifier), resized=resized)


def _encoder_file(folder: Path, encoder: Encoder) -> Path:
    """The weights in a run's folder, whose encoder must normalise its input as this one does."""
    description, file = folder / "encoder.json", folder / "encoder.safetensors"
    if not description.is_file() or not file.is_file():
        raise InputError(
            f"{folder} holds no encoder.json and encoder.safetensors to start from: let `sdclr pretrain` finish that "
            "run, or name a file of weights"
        )
    values = read_json(description).get("encoder")
    if not isinstance(values, dict):
        raise InputError(f"{description} describes no encoder: put back a whole copy of it")
    config = from_json(EncoderConfig, values)
    if (config.mean, config.std) != (encoder.config.mean, encoder.config.std):
        raise InputError(
            f"the encoder in {folder} normalises its input by a mean of {_plain(config.mean)} and a deviation of "
            f"{_plain(config.std)}: give --encoder.mean {_plain(config.mean)} --encoder.std {_plain(config.std)}"
        )
    return file


def _read(file: Path) -> Weights:
    """All tensors of a file, by name."""
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
        raise InputError(f"{file} holds numbers that are not finite in {_some(broken)}: take an earlier checkpoint")
    return tensors


def _stripped(given: Weights, wanted: Weights) -> tuple[Weights, list[str]]:
    """What lies under the prefixes of wrappers, until names are the encoder's, and the modules that lie beside."""
    beside: list[str] = []
    while not any(name in wanted for name in given):
        prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in given)), None)
        if prefix is None:
            break
        beside += sorted({name.partition(".")[0] for name in given if not name.startswith(prefix)})
        given = {name.removeprefix(prefix): weight for name, weight in given.items() if name.startswith(prefix)}
    return given, beside


def _resized(weights: Weights, wanted: Weights, backbone: Any) -> tuple[Weights, tuple[str, ...]]:
    """Position embeddings of a vision transformer on its own grid of patches."""
    name = "pos_embed"
    here, there = wanted.get(name), weights.get(name)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if here is None or there is None or grid is None or here.ndim != 3 or there.ndim != 3 or here.shape == there.shape:
        return weights, ()
    before = here.shape[1] - grid[0] * grid[1]  # tokens without a place
    square = round(max(0, there.shape[1] - before) ** 0.5)
    if here.shape[2] != there.shape[2] or square**2 + before != there.shape[1]:
        return weights, ()
    moved = resample_abs_pos_embed(there, new_size=list(grid), num_prefix_tokens=before)
    return {**weights, name: moved}, (name,)


def _is_classifier(encoder: Encoder, name: str) -> bool:
    if encoder.config.name in CIFAR_RESNETS:
        return name.startswith("fc.")
    config = timm.get_pretrained_cfg(encoder.config.name)
    classifier: Any = (config and config.classifier) or ()
    layers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return name.startswith(tuple(f"{layer}." for layer in layers))


def _check(weights: Weights, wanted: Weights, file: Path, encoder: Encoder) -> None:
    """Every weight of the encoder is there, in its shape, and nothing else.

    Raises:
        InputError: If not; names some of each kind, and the mend.
    """
    # Early files lack the counts of batches, which only averages without a momentum use.
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in wanted]
    misshapen = [name for name, weight in weights.items() if name in wanted and weight.shape != wanted[name].shape]
    shapes = [f"{name} {_shape(weights[name])} instead of {_shape(wanted[name])}" for name in misshapen]
    wrong = [
        f"{len(names)} {what} ({_some(names)})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if wrong:
        mend = _mend({name: weights[name] for name in misshapen}, wanted)
        fits = f"{encoder.config.name!r} for {encoder.image_size} px"
        raise InputError(f"the weights in {file} do not fit {fits}: {'; '.join(wrong)}: {mend}")


def _mend(misshapen: Weights, wanted: Weights) -> str:
    """Which setting would make the encoder fit, as far as the first layer shows it."""
    for name, weight in misshapen.items():
        if weight.ndim != 4 or weight.shape[2:] == wanted[name].shape[2:]:
            continue
        if name == "conv1.weight":
            return f"give --encoder.stem {'small' if weight.shape[-1] == 3 else 'default'}"
        if name in {"patch_embed.proj.weight", "stem.0.weight"}:
            return f"give --encoder.patch {weight.shape[-1]}"
    if misshapen:
        return "give the --encoder.width and the size of views that the file was made with"
    return "give the --encoder.name that the file was made with; its weights must have timm's names"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _shape(weight: Tensor) -> str:
    return "x".join(map(str, weight.shape)) or "single"


def _plain(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
