"""Read files of weights, and fit them to a backbone: every weight in its place, or an error that names some."""

import hashlib
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from sdclr.encoders.cifar_resnet import CIFAR_RESNETS
from sdclr.errors import InputError
from sdclr.files import read_safetensors, read_torch
from sdclr.files.reading import COPY

PICKLED: Final = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Endings of files that `torch.load` reads with `weights_only=True`, so that no code in them runs."""

_ALONE: Final = f"{COPY}; if it holds more than weights, save `model.state_dict()` alone, best as .safetensors"
_KEYS: Final = ("state_dict", "model", "objective")
"""Where a training state keeps its weights."""
_PREFIXES: Final = ("module.", "_orig_mod.", "network.", "model.", "backbone.", "encoder.")
"""What wrappers put before the names of weights."""
_NAMED: Final = 3
"""Weights that an error names, of each kind."""

Weights = dict[str, Tensor]


def read_weights(file: Path) -> Weights:
    """All tensors of a file, by name.

    Args:
        file: `.safetensors`, or a file that torch writes (`PICKLED`), with a state dictionary or one under
            `state_dict` or `model`.

    Raises:
        InputError: If the file is missing or damaged, holds more than weights, or holds numbers that are not finite.
    """
    suffix = file.suffix.lower()
    if not file.is_file():
        raise InputError(f"{file} does not exist: name a file of weights")
    if suffix != ".safetensors" and suffix not in PICKLED:
        raise InputError(f"{file} is no file of weights: name one that ends in .safetensors, {', '.join(PICKLED)}")
    if suffix == ".safetensors":
        values: Any = read_safetensors(file)
    else:
        values = read_torch(file, _ALONE)
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


class Fitted(NamedTuple):
    """What `fit_weights` did beside putting weights in place."""

    left_out: tuple[str, ...]
    """What else the file holds: weights of a classifier, and modules beside the encoder."""
    resized: tuple[str, ...]
    """Position embeddings that were interpolated to another grid of patches."""


def fit_weights(backbone: nn.Module, given: Weights, file: Path, name: str, image_size: int) -> Fitted:
    """Put weights into a backbone.

    Prefixes of wrappers, such as `module.` and `backbone.`, are removed, and a classifier is left out. Position
    embeddings of another number of patches are interpolated. Weights under other names than timm's are renamed where
    timm knows how. Every other weight must fit.

    Args:
        backbone: Changed in place. Nothing is changed if this raises.
        given: The weights by name.
        file: Where they came from, for errors.
        name: The backbone's name, timm's or one of `CIFAR_RESNETS`.
        image_size: Side of the images that the backbone is made for, for errors.

    Returns:
        What was left out and what was resized.

    Raises:
        InputError: If weights are missing, unexpected or of another shape; names the first few of each kind.
    """
    wanted: Weights = backbone.state_dict()
    found, beside = _stripped(given, wanted)
    if not all(weight in wanted for weight in found):
        found = _renamed(found, backbone, name, wanted)
    weights, resized = _resized(found, wanted, backbone)
    classifier = sorted(weight for weight in weights if weight not in wanted and is_classifier(name, weight))
    weights = {key: weight for key, weight in weights.items() if key not in classifier}
    _check(weights, wanted, file, name, image_size)
    backbone.load_state_dict({**wanted, **weights})
    return Fitted((*beside, *classifier), resized)


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_classifier(name: str, weight: str) -> bool:
    """Whether a weight belongs to the classifier of a model, by timm's description of it."""
    import timm

    if name in CIFAR_RESNETS:
        return weight.startswith("fc.")
    config = timm.get_pretrained_cfg(name)
    classifier: Any = (config and config.classifier) or ()
    layers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return weight.startswith(tuple(f"{layer}." for layer in layers))


def _stripped(given: Weights, wanted: Weights) -> tuple[Weights, list[str]]:
    """The weights without prefixes of wrappers, and the names of the modules that lie beside the encoder."""
    beside: list[str] = []
    while not any(name in wanted for name in given):
        prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in given)), None)
        if prefix is None:
            break
        beside += sorted({name.partition(".")[0] for name in given if not name.startswith(prefix)})
        given = {name.removeprefix(prefix): weight for name, weight in given.items() if name.startswith(prefix)}
    return given, beside


def _renamed(given: Weights, backbone: nn.Module, name: str, wanted: Weights) -> Weights:
    """The weights under timm's names, where timm has a filter for files of other publishers."""
    import timm

    if name in CIFAR_RESNETS:
        return given
    convert = getattr(sys.modules[timm.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return given
    try:
        found: Any = convert(dict(given), backbone)
    except Exception:  # noqa: BLE001  # the filter is made for its own files and may fail on others in any way
        return given
    fits = isinstance(found, dict) and sum(key in wanted for key in found) > sum(key in wanted for key in given)
    return found if fits else given


def _resized(weights: Weights, wanted: Weights, backbone: Any) -> tuple[Weights, tuple[str, ...]]:
    """Position embeddings of a vision transformer on its own grid of patches."""
    from timm.layers.pos_embed import resample_abs_pos_embed

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


def _check(weights: Weights, wanted: Weights, file: Path, model: str, image_size: int) -> None:
    """Raise unless every weight of the encoder is there in its shape, and nothing else."""
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
        remedy = _remedy({name: weights[name] for name in misshapen}, wanted)
        raise InputError(
            f"the weights in {file} do not fit {model!r} for {image_size} px: {'; '.join(wrong)}: {remedy}"
        )


def _remedy(misshapen: Weights, wanted: Weights) -> str:
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
    return "give the --encoder.name (or timm:NAME) that the file was made with; its weights must have timm's names"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _shape(weight: Tensor) -> str:
    return "x".join(map(str, weight.shape)) or "single"
