"""What is known of trained weights before they are read: which encoder they fit, their license, and what taught them.

Weights are named in one grammar: `timm:NAME` and `timm:NAME=FILE` (a model of timm's with its own weights, or with
those of a file), a run's folder, or a file of weights under timm's names.
"""

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import timm

from sdclr.config import from_json
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.training.run import Run, read_json

_TIMM: Final = "timm:"

# What the parts of a tag of timm's tell, such as `augreg_in21k_ft_in1k`, in the order in which they are asked.
_FINE_TUNED: Final = re.compile(r"(^|_)(ft|lc)_in\d+k")
"""Fine-tuned, or given a linear classifier, on a part of ImageNet."""
_CAPTIONS: Final = re.compile(
    r"(^|_)(openai|laion|clip|datacomp|metaclip|webli|dfn|mclip|tinyclip|yfcc15m|cc12m|merged2b)"
)
"""Image and text encoders that were trained together."""
_NO_LABELS: Final = re.compile(r"(^|_)(dino|lvd|mae|fcmae|ijepa|mim|seer|sat493m)")
"""Self-supervised."""
_CLASSES: Final = re.compile(r"(^|_)(in|inw)\d+k(_|$)")
"""A part of ImageNet, and nothing of the above."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where trained weights come from, as far as it can be told without reading them."""

    spec: str
    """How they are named."""
    license: str | None = None
    """Under which license, by the name that timm or the run has for it; None if that is not known."""
    labels: bool | None = None
    """Whether labels of classes trained them; None if that is not known."""
    teacher: str = "it is not known whether labels trained them"
    """The same in words."""
    encoder: EncoderConfig | None = None
    """The encoder that they fit; None if they do not say."""
    image_size: int | None = None
    """Side of the images that they are made for, in pixels."""

    @property
    def words(self) -> str:
        """What is known, in one phrase, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        return f"{self.spec} ({f'license {self.license}' if self.license else 'license not known'}, {self.teacher})"


def is_timm(spec: str) -> bool:
    """Whether weights are named as those of a model of timm's."""
    return spec.startswith(_TIMM)


def timm_parts(spec: str) -> tuple[str, Path | None]:
    """The name in `timm:NAME` or `timm:NAME=FILE`, and the file.

    Raises:
        InputError: If timm has no model of this name.
    """
    name, equals, file = spec.removeprefix(_TIMM).partition("=")
    listed = "`timm.list_models(pretrained=True)` lists those with weights"
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4)
        hint = f"did you mean {', '.join(near)}?" if near else listed
        raise InputError(f"{spec} names no model of timm's: {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # there is no such tag
        raise InputError(f"{spec} names no weights of timm's ({error}): {listed}") from error
    return name, Path(file).expanduser() if equals else None


def origin_of(spec: str) -> Origin:
    """What is known of trained weights.

    Args:
        spec: How they are named: `timm:NAME`, `timm:NAME=FILE`, a run's folder or a file.

    Raises:
        InputError: If timm has no model of this name, or what a folder says of its encoder cannot be read.

    Example:
        >>> origin_of("timm:tf_efficientnet_lite0").words
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
    return Origin(spec=spec)


def taught_by(name: str) -> tuple[bool | None, str]:
    """Whether labels of classes trained the weights that timm has under a name, and the same in words.

    It goes by the tag, such as `in1k` or `dinov3_lvd1689m`, which timm gives to each set of weights: a rule of thumb,
    since no model says so itself.

    Args:
        name: Of a model, with its tag or without, for which timm then has a default.
    """
    config = timm.get_pretrained_cfg(name)
    tag = (config.tag if config is not None else "") or ""
    if _FINE_TUNED.search(tag):
        return True, "trained with labels"
    if _CAPTIONS.search(tag):
        return False, "trained on captions"
    if _NO_LABELS.search(tag):
        return False, "trained without labels"
    if _CLASSES.search(tag):
        return True, "trained with labels"
    return None, "perhaps trained with labels" if tag else "it is not known whether labels trained them"


def timm_encoder(name: str) -> EncoderConfig:
    """The encoder that weights of timm's under a name fit: the stem as it was published, its own normalization."""
    config: Any = timm.get_pretrained_cfg(name)
    return from_json(EncoderConfig, {"name": name, "stem": "default", "mean": config.mean, "std": config.std})


def _of_timm(spec: str) -> Origin:
    name, file = timm_parts(spec)
    config: Any = timm.get_pretrained_cfg(name)
    found = Origin(spec=spec, encoder=timm_encoder(name), image_size=int(config.input_size[-1]))
    if file is not None:
        return found  # nobody says what the file holds
    labels, teacher = taught_by(name)
    return replace(found, license=config.license, labels=labels, teacher=teacher)


def _of_folder(spec: str, folder: Path) -> Origin:
    description = folder / "encoder.json"
    if not description.is_file():
        raise InputError(
            f"{folder} holds no encoder.json and encoder.safetensors to start from: let `sdclr pretrain` finish that "
            "run, or name a file of weights"
        )
    values = read_json(description)
    if not isinstance(values.get("encoder"), dict) or not isinstance(values.get("image_size"), int):
        raise InputError(f"{description} describes no encoder: put back a whole copy of it")
    encoder = from_json(EncoderConfig, values["encoder"])
    return replace(_inherited(spec, folder), encoder=encoder, image_size=values["image_size"])


def _inherited(spec: str, folder: Path) -> Origin:
    """What a run passes on: a run has no labels of its own, but the weights that it started from may have had some."""
    run = Run(folder)
    if run.start_file.is_file():
        start = read_json(run.start_file)
        labels, first = start.get("labels"), start.get("spec", "other weights")
        with_labels = {True: "with labels", False: "without labels", None: "perhaps with labels"}[labels]
        teacher = f"trained without labels from {first}, which was trained {with_labels}"
        return Origin(spec=spec, license=start.get("license"), labels=labels, teacher=teacher)
    if run.config_file.is_file() and run.config.start is None:
        return Origin(spec=spec, labels=False, teacher="trained without labels")
    return Origin(spec=spec)
