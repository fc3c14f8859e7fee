"""Start from an encoder that is trained already: a model of timm's, a run's, or a file of weights."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import timm
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from sdclr.config import from_json
from sdclr.encoders import CIFAR_RESNETS, Encoder, EncoderConfig, Network
from sdclr.errors import InputError
from sdclr.training.origin import Origin, is_timm, origin_of
from sdclr.training.pretrained import load_pretrained
from sdclr.training.run import Run, read_json
from sdclr.training.weights import Weights, read_weights, some

_PREFIXES: Final = ("module.", "_orig_mod.", "network.", "model.", "backbone.", "encoder.")
"""What wrappers put before the names of weights."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where an encoder's first weights came from."""

    file: str
    """The file that was read, or where else the weights came from."""
    sha256: str
    """Of its bytes, in hexadecimal."""
    spec: str = ""
    """How the weights were named."""
    license: str | None = None
    """Under which license they are, as far as it is known."""
    labels: bool | None = None
    """Whether labels of classes trained them; None if that is not known."""
    teacher: str = "it is not known whether labels trained them"
    """The same in words."""
    left_out: tuple[str, ...] = ()
    """What else it holds: the weights of a classifier, and modules beside the encoder."""
    resized: tuple[str, ...] = ()
    """Position embeddings that were brought from another grid of patches to this one's."""

    @property
    def words(self) -> str:
        """What is known, in one phrase, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        spec = self.spec or self.file
        return Origin(spec=spec, license=self.license, labels=self.labels, teacher=self.teacher).words


def start_of(run: Run) -> Start | None:
    """What a run's encoder started from; None if it started at random, or has not begun."""
    if not run.start_file.is_file():
        return None
    known = {field.name for field in fields(Start)}
    return from_json(Start, {name: value for name, value in read_json(run.start_file).items() if name in known})


def load_start(network: Network, spec: str | Path) -> Start:
    """Put trained weights into a network's encoder. The projection head stays as it is: random.

    Call it before a competitor or a momentum network is made of the network: both begin as copies of parts of it.

    What may be named:

    - `timm:NAME`, a model of timm's with its weights, or `timm:NAME=FILE`, with those of a file;
    - a finished run's folder, or any with `encoder.json` and `encoder.safetensors`;
    - a file of weights under timm's names: `.safetensors`, or one that torch writes (`PICKLED`), of a bare state
      dictionary or one under `state_dict` or `model`, a run's snapshots and checkpoints among them. Prefixes such as
      `module.` and `backbone.` are taken off; a classifier and what lies beside the encoder are left out.

    Name, stem, patches, width and normalization of the input must be those of the weights, as far as they say. Position
    embeddings of another number of patches, as when the images have another size, are interpolated.

    Args:
        network: Changed in place. Nothing is changed if this raises.
        spec: What to start from.

    Returns:
        What was read.

    Raises:
        InputError: If there are no such weights, they hold more than weights or damaged ones, or they do not fit.
    """
    spec = str(spec)
    encoder = network.encoder
    origin = origin_of(spec)
    if origin.encoder is not None:
        _check_settings(spec, origin.encoder, encoder.config)
    if is_timm(spec):
        trained, source, digest = load_pretrained(spec)
        given: Weights = trained.backbone.state_dict()
    else:
        file = Path(spec).expanduser()
        file = file / "encoder.safetensors" if file.is_dir() else file
        if not file.is_file():
            raise InputError(f"there is no {file} to start from: name timm:NAME, a run's folder or a file of weights")
        given, source = read_weights(file), str(file)
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    left_out, resized = _put(given, encoder, source)
    return Start(
        file=source,
        sha256=digest,
        spec=spec,
        license=origin.license,
        labels=origin.labels,
        teacher=origin.teacher,
        left_out=left_out,
        resized=resized,
    )


def _check_settings(spec: str, given: EncoderConfig, asked: EncoderConfig) -> None:
    """The encoder is the one that the weights are of, and normalizes its input in the same way."""
    if given.name != asked.name:
        raise InputError(
            f"the weights of {spec} are of {given.name!r}, not of {asked.name!r}: give --encoder.name {given.name}"
        )
    if (given.mean, given.std) != (asked.mean, asked.std):
        raise InputError(
            f"the encoder of {spec} normalizes its input by a mean of {_plain(given.mean)} and a deviation of "
            f"{_plain(given.std)}: give --encoder.mean {_plain(given.mean)} --encoder.std {_plain(given.std)}"
        )


def _put(given: Weights, encoder: Encoder, source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put weights into the encoder's backbone; what was left out, and what was resized."""
    backbone = encoder.backbone
    wanted: Weights = backbone.state_dict()
    found, left_out = _stripped(given, wanted)
    weights, resized = _resized(found, wanted, backbone)
    classifier = sorted(name for name in weights if name not in wanted and _is_classifier(encoder, name))
    weights = {name: weight for name, weight in weights.items() if name not in classifier}
    _check(weights, wanted, source, encoder)
    backbone.load_state_dict({**wanted, **weights})
    return (*left_out, *classifier), resized


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


def _check(weights: Weights, wanted: Weights, source: str, encoder: Encoder) -> None:
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
        f"{len(names)} {what} ({some(names)})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if wrong:
        mend = _mend({name: weights[name] for name in misshapen}, wanted)
        fits = f"{encoder.config.name!r} for {encoder.image_size} px"
        raise InputError(f"the weights in {source} do not fit {fits}: {'; '.join(wrong)}: {mend}")


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


def _shape(weight: Tensor) -> str:
    return "x".join(map(str, weight.shape)) or "single"


def _plain(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
