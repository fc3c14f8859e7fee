"""Metadata of trained weights before they are read: the encoder that they fit, their license, and their training.

All commands use the same names of weights: `timm:NAME` and `timm:NAME=FILE` (a timm model with its own weights, or with
those in a file), the folder of a run or an export, or a file of weights under timm's names.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType

from sdclr.config import from_json
from sdclr.encoders import EncoderConfig
from sdclr.encoders.config import PREFIX
from sdclr.encoders.origin import UNKNOWN_TEACHER, taught_by
from sdclr.encoders.pretrained import describe_timm, timm_config
from sdclr.encoders.timm_spec import parse_timm
from sdclr.errors import InputError
from sdclr.files import check_keys, parsing, read_json
from sdclr.files.reading import Keys
from sdclr.training.run import Run


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """Metadata of trained weights, available without reading them."""

    spec: str
    """Name of the weights."""
    license: str | None = None
    """License, by the name in timm or in the run; None if unknown."""
    labels: bool | None = None
    """Whether the weights were trained with class labels; None if unknown."""
    teacher: str = UNKNOWN_TEACHER
    """The same in words."""
    encoder: EncoderConfig | None = None
    """The encoder that the weights fit; None if unknown."""
    image_size: int | None = None
    """Side of the images that the weights are made for, in pixels; None if unknown."""

    @property
    def words(self) -> str:
        """Name, license and use of labels, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        return f"{self.spec} ({f'license {self.license}' if self.license else 'license not known'}, {self.teacher})"


def is_timm(spec: str) -> bool:
    """Whether a name refers to a timm model."""
    return spec.startswith(PREFIX)


def known_weights(spec: str) -> KnownWeights:
    """Metadata of trained weights.

    Args:
        spec: Name of the weights: `timm:NAME`, `timm:NAME=FILE`, a run's folder or a file.

    Raises:
        InputError: If timm has no model of this name, or a folder's description of its encoder cannot be read.

    Examples:
        >>> known_weights("timm:tf_efficientnet_lite0").words
        'timm:tf_efficientnet_lite0 (license apache-2.0, trained with labels)'
    """
    if is_timm(spec):
        return _of_timm(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _of_folder(spec, path)
    folder = path.parent.parent
    if path.parent.name in {"snapshots", "checkpoints"} and (folder / "config.json").is_file():
        config = Run(folder).config
        return replace(_inherited(spec, folder), encoder=config.encoder, image_size=config.views.image_size)
    return KnownWeights(spec=spec)


def untagged(name: str) -> EncoderConfig:
    """The encoder that timm's weights fit, without the tag in its name: training changes the tagged weights.

    Args:
        name: Name of a model, with or without the tag of its weights.

    Raises:
        InputError: If timm has no such model or no such weights.
    """
    config = timm_config(describe_timm(name))
    return replace(config, name=config.name.partition(".")[0])


def _of_timm(spec: str) -> KnownWeights:
    parsed = parse_timm(spec)
    described = describe_timm(parsed.name)
    found = KnownWeights(spec=spec, encoder=untagged(parsed.name), image_size=int(described["input_size"][-1]))
    if parsed.file is not None:
        return found  # license and training of the weights in the file are unknown
    labels, teacher = taught_by(described["name"])
    return replace(found, license=described.get("license"), labels=labels, teacher=teacher)


def _of_folder(spec: str, folder: Path) -> KnownWeights:
    description = folder / "encoder.json"
    if not description.is_file():
        raise InputError(
            f"{folder} holds no encoder.json and encoder.safetensors to start from: let `sdclr pretrain` finish that "
            "run, or name a file of weights"
        )
    values = read_json(description, keys={"encoder": dict, "image_size": int})
    with parsing(description):
        encoder = from_json(EncoderConfig, values["encoder"])
    return replace(_inherited(spec, folder), encoder=encoder, image_size=values["image_size"])


def _inherited(spec: str, folder: Path) -> KnownWeights:
    """Metadata of a run's weights. A run uses no labels, but its initial weights may have been trained with labels."""
    run = Run(folder)
    if run.start_file.is_file():
        start = read_json(run.start_file)
        kinds: Keys = {"labels": (bool, NoneType), "spec": str, "license": (str, NoneType)}
        check_keys(run.start_file, start, {key: kind for key, kind in kinds.items() if key in start})
        labels, first = start.get("labels"), start.get("spec", "other weights")
        with_labels = {True: "with labels", False: "without labels", None: "perhaps with labels"}[labels]
        teacher = f"trained without labels from {first}, which was trained {with_labels}"
        return KnownWeights(spec=spec, license=start.get("license"), labels=labels, teacher=teacher)
    if run.config_file.is_file() and run.config.start is None:
        return KnownWeights(spec=spec, labels=False, teacher="trained without labels")
    return KnownWeights(spec=spec)
