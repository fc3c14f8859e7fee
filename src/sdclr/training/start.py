"""Start from a trained encoder: a timm model, a run, or a file of weights."""

from dataclasses import dataclass, fields
from pathlib import Path

from sdclr.config import from_json
from sdclr.encoders import EncoderConfig, Network, load_pretrained
from sdclr.encoders.origin import UNKNOWN_TEACHER
from sdclr.encoders.saved import WEIGHTS
from sdclr.encoders.weights import Weights, file_digest, fit_weights, read_weights
from sdclr.errors import InputError
from sdclr.files import parsing, read_json
from sdclr.training.known_weights import KnownWeights, is_timm, known_weights
from sdclr.training.run import Run


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
    teacher: str = UNKNOWN_TEACHER
    """The same in words."""
    left_out: tuple[str, ...] = ()
    """What else it holds: the weights of a classifier, and modules beside the encoder."""
    resized: tuple[str, ...] = ()
    """Position embeddings that were brought from another grid of patches to this one's."""

    @property
    def words(self) -> str:
        """What is known, in one phrase, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        spec = self.spec or self.file
        return KnownWeights(spec=spec, license=self.license, labels=self.labels, teacher=self.teacher).words


def start_of(run: Run) -> Start | None:
    """What a run's encoder started from; None if it started at random, or has not begun."""
    if not run.start_file.is_file():
        return None
    known = {field.name for field in fields(Start)}
    values = read_json(run.start_file)
    with parsing(run.start_file):
        return from_json(Start, {name: value for name, value in values.items() if name in known})


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
    known = known_weights(spec)
    if known.encoder is not None:
        _check_settings(spec, known.encoder, encoder.config)
    if is_timm(spec):
        given, source, digest = _of_timm(spec)
    else:
        file = Path(spec).expanduser()
        if file.is_dir():
            file = next((found for name in WEIGHTS if (found := file / name).is_file()), file / WEIGHTS[0])
        if not file.is_file():
            raise InputError(f"there is no {file} to start from: name timm:NAME, a run's folder or a file of weights")
        given, source = read_weights(file), str(file)
        digest = file_digest(file)
    fitted = fit_weights(encoder.backbone, given, Path(source), encoder.config.name, encoder.image_size)
    return Start(
        file=source,
        sha256=digest,
        spec=spec,
        license=known.license,
        labels=known.labels,
        teacher=known.teacher,
        left_out=fitted.left_out,
        resized=fitted.resized,
    )


def _of_timm(spec: str) -> tuple[Weights, str, str]:
    """Weights of a model of timm, where they were read from, and the digest of that file."""
    trained = load_pretrained(spec)
    origin = trained.origin
    assert origin is not None  # noqa: S101  # for mypy: pretrained encoders have one
    return dict(trained.backbone.state_dict()), origin.source, origin.sha256 or ""


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


def _plain(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
