"""Export of an encoder for other tools: timm, torchvision, ONNX runtimes, with a model card."""

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sdclr.choices import FORMATS, Format
from sdclr.encoders import CIFAR_RESNETS, Encoder, create_encoder, write_description
from sdclr.errors import InputError, not_a_text
from sdclr.files import left_aside, looking_at, read_safetensors, whole_folder, write_atomically, write_json
from sdclr.progress import stage
from sdclr.training.card_usage import Architecture
from sdclr.training.model_card import model_card, preprocessing
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder

TOLERANCE: Final = 1e-4
"""Maximum difference between exported features and the encoder's, as a share of the largest feature."""

_TORCHVISION: Final = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_ONNX_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
_NAMES: Final = {
    *("README.md", "preprocessing.json", "encoder.json", "model.safetensors", "config.json", "encoder.onnx"),
}
"""Names of the files of an export."""
_ONNX_LIMIT: Final = 2 * 10**9
"""Maximum size of the weights in one ONNX file, in bytes."""


@dataclass(frozen=True)
class Exported:
    """Result of an export."""

    folder: Path
    files: tuple[str, ...]
    """Names of the files in the folder."""
    differences: dict[Format, float]
    """For each written format, the largest difference from the encoder's features, as a share of the largest one."""
    left_out: dict[Format, str]
    """Formats that cannot be written and were not requested by name, with the reason."""


@stage("exporting")
def export(encoder: EncoderLike, folder: str | Path, formats: Sequence[Format] | None = None) -> Exported:
    """Write an encoder into a new folder. Each format is read back and its features are compared.

    The folder holds `README.md` (a model card), `preprocessing.json`, and

    - timm: `model.safetensors`, `encoder.json` for `sdclr.load_encoder` and, if timm can create the architecture
      directly, `config.json`: a folder for `timm.create_model("local-dir:…")` or the Hugging Face Hub. The card has the
      lines of code.
    - torchvision: the same `model.safetensors`, checked in torchvision's ResNet of that name.
    - onnx: `encoder.onnx`, from uint8 images `(N, 3, S, S)` to features `(N, D)`, normalization inside, any N.

    Args:
        encoder: A finished run or its folder, `timm:NAME`, or any other input of `sdclr.load_encoder`.
        folder: A folder that does not exist yet, or is empty.
        formats: Formats to write; by default all that can hold this encoder.

    Returns:
        What was written.

    Raises:
        InputError: If the folder is not empty, or a requested format does not fit or its packages are missing.

    Examples:
        >>> done = sdclr.export("runs/digits", "exported", ["timm"])
        >>> done.files
        ('README.md', 'encoder.json', 'model.safetensors', 'preprocessing.json')
        >>> sdclr.load_encoder("exported").num_features
        32
    """
    folder = Path(folder)
    _check_folder(folder)
    not_a_text(formats, "formats", "formats")
    unknown = sorted(set(formats or ()) - set(FORMATS))
    if unknown or formats == ():
        raise InputError(f"no export format {', '.join(unknown) or 'is named'}: choose from {', '.join(FORMATS)}")
    resolved = resolve_encoder(encoder)
    exported = resolved.encoder
    architecture = Architecture.of(exported)
    named = _has_timms_names(exported)
    left_out = {name: why for name in FORMATS if (why := _obstacle(name, exported, architecture, named=named))}
    for name in formats or ():
        if name in left_out:
            raise InputError(left_out[name])
    chosen = [name for name in FORMATS if name in (formats or FORMATS) and name not in left_out]
    with whole_folder(folder) as aside:
        differences = {name: _checked(name, _WRITERS[name](exported, architecture, aside, resolved)) for name in chosen}
        write_json(aside / "preprocessing.json", preprocessing(exported))
        if (aside / "model.safetensors").exists():
            write_description(aside, exported, aside / "model.safetensors")
        card = model_card(resolved, architecture, formats=chosen)
        write_atomically(aside / "README.md", card.encode("utf-8", "backslashreplace"))
    files = tuple(sorted(file.name for file in folder.iterdir()))
    return Exported(folder, files, differences, {} if formats else left_out)


def _check_folder(folder: Path) -> None:
    """Check that a folder is new, or empty except for files of a killed export."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a new folder for the export")
    with looking_at(folder):
        there = {file.name for file in folder.iterdir()} if folder.exists() else set()
    aside = left_aside(folder).name
    if {"README.md", "preprocessing.json"} <= there <= _NAMES:  # a killed export lacks one of them
        raise InputError(f"{folder} already holds an export: use it, remove it, or name a new folder")
    if there - ({aside} | _NAMES if aside in there else set()):
        raise InputError(f"{folder} is not empty: name a new folder for the export")


def _checked(name: Format, difference: float) -> float:
    if not difference <= TOLERANCE:
        raise InputError(
            f"the features of the {name} export differ from the encoder's by {difference:.1e} of the largest: "
            f"leave {name} out, or install another version of it"
        )
    return difference


def _has_timms_names(encoder: Encoder) -> bool:
    """Whether the weights have the names and shapes of the configured architecture, so that others can load them."""
    try:
        with torch.random.fork_rng(devices=[]):
            built = create_encoder(encoder.config, encoder.image_size)
    except InputError:  # a module of the user's own
        return False
    shapes, wanted = (
        {name: value.shape for name, value in made.backbone.state_dict().items()} for made in (encoder, built)
    )
    return shapes == wanted


def _obstacle(name: Format, encoder: Encoder, architecture: Architecture, *, named: bool) -> str | None:
    """Reason why a format cannot be written; None if it can."""
    config = encoder.config
    if name != "onnx" and (config.name in CIFAR_RESNETS or not named):
        if named:
            return f"{name} has no {config.name!r} for small images: export to onnx"
        return f"the weights of {config.name!r} are not under timm's names, which {name} needs: export to onnx"
    if name == "torchvision":
        return _torchvision_obstacle(encoder, architecture)
    if name == "onnx":
        missing = [package for package in _ONNX_PACKAGES if importlib.util.find_spec(package) is None]
        if missing:
            return f"ONNX export needs {', '.join(missing)}: pip install 'sdclr[onnx]'"
        size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
        if size > _ONNX_LIMIT:
            return f"an ONNX file holds 2 GB, not the {size / 1e9:.1f} GB of this encoder: export to timm"
    return None


def _torchvision_obstacle(encoder: Encoder, architecture: Architecture) -> str | None:
    config = encoder.config
    if architecture.name not in _TORCHVISION:
        return f"torchvision's format is for {', '.join(_TORCHVISION)}, not for {config.name!r}: export to timm"
    if architecture.small_stem or architecture.narrow:
        what = "a stem for small images" if architecture.small_stem else f"a width of {config.width}"
        return f"this {config.name!r} has {what}, unlike that of torchvision: export to timm or onnx"
    return None


def _write_timm(encoder: Encoder, architecture: Architecture, folder: Path, resolved: ResolvedEncoder) -> float:
    import timm

    _write_weights(encoder, folder)
    if not architecture.plain:  # the card's code builds the same network as `create_encoder`
        weights, kept = encoder.backbone.state_dict(), read_safetensors(folder / "model.safetensors")
        return float(any(not torch.equal(weights[name].cpu(), kept[name]) for name in weights))
    size, seen = encoder.image_size, encoder.preprocessing
    small = resolved.run is not None and bool(resolved.run.source.get("held_in_memory"))
    config = {
        "architecture": architecture.name,
        "num_classes": 0,
        "num_features": encoder.num_features,
        "model_args": architecture.arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": list(encoder.config.mean),
            "std": list(encoder.config.std),
            "interpolation": seen.interpolation,
            "crop_mode": seen.crop_mode,
            "crop_pct": 1.0 if small else seen.crop_pct,  # small images are not cropped
            "num_classes": 0,
        },
    }
    write_json(folder / "config.json", config)
    backbone = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return _difference(encoder, backbone)


def _write_torchvision(encoder: Encoder, architecture: Architecture, folder: Path, _resolved: ResolvedEncoder) -> float:
    import torchvision

    file = folder / "model.safetensors"
    if not file.exists():
        _write_weights(encoder, folder)
    backbone = torchvision.models.get_model(architecture.name)
    found = backbone.load_state_dict(read_safetensors(file), strict=False)
    if set(found.missing_keys) != {"fc.weight", "fc.bias"} or found.unexpected_keys:
        return float("inf")
    backbone.fc = nn.Identity()
    return _difference(encoder, backbone)


def _write_onnx(encoder: Encoder, _architecture: Architecture, folder: Path, _resolved: ResolvedEncoder) -> float:
    onnxruntime = importlib.import_module("onnxruntime")  # an optional dependency
    file = folder / "encoder.onnx"
    batch = torch.export.Dim("N", min=1)
    with _quiet():
        program = torch.onnx.export(
            encoder,
            (_pictures(encoder, 2),),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"images": {0: batch}},
            external_data=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101  # for mypy: only the older exporter returns nothing
    write_atomically(file, program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def encoded(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    # Batch sizes that differ from the traced one, among them 1.
    return max(_farthest(encoder, encoded, _pictures(encoder, count)) for count in (5, 1))


_Writer = Callable[[Encoder, Architecture, Path, ResolvedEncoder], float]
_WRITERS: Final[dict[Format, _Writer]] = {
    "timm": _write_timm,
    "torchvision": _write_torchvision,
    "onnx": _write_onnx,
}
"""Each writes its files, reads them back and returns the difference between the features."""


def _write_weights(encoder: Encoder, folder: Path) -> None:
    weights = {name: tensor.detach().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    write_atomically(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))


def _difference(encoder: Encoder, backbone: nn.Module) -> float:
    backbone = backbone.eval()
    mean, std = encoder.mean, encoder.std
    return _farthest(encoder, lambda images: backbone((images / 255 - mean) / std), _pictures(encoder, 4))


@torch.no_grad()
def _farthest(encoder: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> float:
    expected, found = encoder(images), other(images)
    if expected.shape != found.shape:
        return float("inf")
    return float((expected - found).abs().max() / expected.abs().max())


def _pictures(encoder: Encoder, count: int) -> Tensor:
    """Random images for the comparison; equal for equal arguments."""
    generator = torch.Generator().manual_seed(count)
    size = encoder.image_size
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the ONNX exporter's logs and warnings, because the result is checked."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
