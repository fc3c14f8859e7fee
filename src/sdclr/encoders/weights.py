"""Read files of weights and load them into a backbone. Weights that do not fit raise an error."""

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
"""Suffixes of files that `torch.load` reads with `weights_only=True`, so that code in them does not run."""

_ALONE: Final = f"{COPY}; if it holds more than weights, save `model.state_dict()` alone, best as .safetensors"
_KEYS: Final = ("state_dict", "model", "objective")
"""Keys of the weights in a training state."""
_PREFIXES: Final = ("module.", "_orig_mod.", "network.", "model.", "backbone.", "encoder.")
"""Prefixes that wrappers add to the names of weights."""
_NAMED: Final = 3
"""Number of weights of each kind in an error message."""

Weights = dict[str, Tensor]


def read_weights(file: Path) -> Weights:
    """Read all tensors of a file, by name.

    Args:
        file: `.safetensors`, or a file that torch writes (`PICKLED`), with a state dictionary or one under
            `state_dict` or `model`.

    Raises:
        InputError: If the file is missing or damaged, holds more than weights, or holds values that are not finite.
    """
    suffix = file.suffix.lower()
    if not file.is_file():
        raise InputError(f"{file} does not exist: name a file of weights")
    if suffix != ".safetensors" and suffix not in PICKLED:
        raise InputError(f"{file} is not a file of weights: name one that ends in .safetensors, {', '.join(PICKLED)}")
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
    """Weights that `fit_weights` left out or resized."""

    left_out: tuple[str, ...]
    """Weights of a classifier, and modules outside the encoder."""
    resized: tuple[str, ...]
    """Position embeddings that were interpolated to another grid of patches."""


def fit_weights(backbone: nn.Module, given: Weights, file: Path, name: str, image_size: int) -> Fitted:
    """Load weights into a backbone.

    Prefixes of wrappers, such as `module.` and `backbone.`, are removed, and a classifier is left out. Position
    embeddings for another number of patches are interpolated. Weights under other names than timm's are renamed if
    timm has a converter. All other weights must fit.

    Args:
        backbone: Changed in place. If this raises an error, nothing is changed.
        given: The weights by name.
        file: Source of the weights, for errors.
        name: The backbone's name, timm's or one of `CIFAR_RESNETS`.
        image_size: Side of the backbone's images, for errors.

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
    """Whether a weight belongs to the classifier of a model, according to timm."""
    import timm

    if name in CIFAR_RESNETS:
        return weight.startswith("fc.")
    config = timm.get_pretrained_cfg(name)
    classifier: Any = (config and config.classifier) or ()
    layers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return weight.startswith(tuple(f"{layer}." for layer in layers))


def _stripped(given: Weights, wanted: Weights) -> tuple[Weights, list[str]]:
    """The weights without prefixes of wrappers, and the names of modules outside the encoder."""
    beside: list[str] = []
    while not any(name in wanted for name in given):
        prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in given)), None)
        if prefix is None:
            break
        beside += sorted({name.partition(".")[0] for name in given if not name.startswith(prefix)})
        given = {name.removeprefix(prefix): weight for name, weight in given.items() if name.startswith(prefix)}
    return given, beside


def _renamed(given: Weights, backbone: nn.Module, name: str, wanted: Weights) -> Weights:
    """The weights under timm's names, if timm has a converter for files of other publishers."""
    import timm

    if name in CIFAR_RESNETS:
        return given
    convert = getattr(sys.modules[timm.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return given
    try:
        found: Any = convert(dict(given), backbone)
    except Exception:  # noqa: BLE001  # the converter is made for certain files and may raise any error on others
        return given
    fits = isinstance(found, dict) and sum(key in wanted for key in found) > sum(key in wanted for key in given)
    return found if fits else given


def _resized(weights: Weights, wanted: Weights, backbone: Any) -> tuple[Weights, tuple[str, ...]]:
    """Interpolate position embeddings to a vision transformer's grid of patches."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    name = "pos_embed"
    here, there = wanted.get(name), weights.get(name)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if here is None or there is None or grid is None or here.ndim != 3 or there.ndim != 3 or here.shape == there.shape:
        return weights, ()
    before = here.shape[1] - grid[0] * grid[1]  # tokens without a position
    square = round(max(0, there.shape[1] - before) ** 0.5)
    if here.shape[2] != there.shape[2] or square**2 + before != there.shape[1]:
        return weights, ()
    moved = resample_abs_pos_embed(there, new_size=list(grid), num_prefix_tokens=before)
    return {**weights, name: moved}, (name,)


def _check(weights: Weights, wanted: Weights, file: Path, model: str, image_size: int) -> None:
    """Raise an error unless the weights have exactly the names and shapes of the encoder."""
    # Early files lack the counts of batches, which are only needed without momentum.
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
    """The setting with which the encoder would fit, as far as the first layer tells."""
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
