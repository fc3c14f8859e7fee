"""Initial weights from a trained encoder: a timm model, a run, or a file of weights."""

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
    """Source of an encoder's initial weights."""

    file: str
    """The file that was read, or another source of the weights."""
    sha256: str
    """SHA-256 of its bytes, in hexadecimal."""
    spec: str = ""
    """Name of the weights, as the user gave it."""
    license: str | None = None
    """License of the weights; None if unknown."""
    labels: bool | None = None
    """Whether the weights were trained with class labels; None if unknown."""
    teacher: str = UNKNOWN_TEACHER
    """The same in words."""
    left_out: tuple[str, ...] = ()
    """Parts that were not loaded: a classifier's weights, and modules outside the encoder."""
    resized: tuple[str, ...] = ()
    """Position embeddings that were resampled to another grid of patches."""

    @property
    def words(self) -> str:
        """Name, license and use of labels, such as "timm:resnet18 (license apache-2.0, trained with labels)"."""
        spec = self.spec or self.file
        return KnownWeights(spec=spec, license=self.license, labels=self.labels, teacher=self.teacher).words


def start_of(run: Run) -> Start | None:
    """Source of the initial weights of a run's encoder; None for random weights, or before the run starts."""
    if not run.start_file.is_file():
        return None
    known = {field.name for field in fields(Start)}
    values = read_json(run.start_file)
    with parsing(run.start_file):
        return from_json(Start, {name: value for name, value in values.items() if name in known})


def load_start(network: Network, spec: str | Path) -> Start:
    """Load trained weights into a network's encoder. The projection head keeps its random weights.

    Call it before a competitor or a momentum network is created: both start as copies of parts of the network.

    Accepted names:

    - `timm:NAME`, a timm model with its weights, or `timm:NAME=FILE`, with the weights in a file;
    - the folder of a finished run, or any folder with `encoder.json` and `encoder.safetensors`;
    - a file of weights under timm's names: `.safetensors`, or one that torch writes (`PICKLED`), with a bare state
      dictionary or one under `state_dict` or `model`, such as a run's snapshots and checkpoints. Prefixes such as
      `module.` and `backbone.` are removed. A classifier and modules outside the encoder are left out.

    Name, stem, patches, width and input normalization of the encoder must equal those of the weights, where known.
    Position embeddings are interpolated if the number of patches differs, for example at another image size.

    Args:
        network: Changed in place. If this raises an error, nothing is changed.
        spec: Name of the weights.

    Returns:
        Description of the loaded weights.

    Raises:
        InputError: If there are no such weights, the file holds more than weights or is damaged, or they do not fit.
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
    """Weights of a timm model, their source, and the digest of the file."""
    trained = load_pretrained(spec)
    origin = trained.origin
    assert origin is not None  # noqa: S101  # for mypy: pretrained encoders have one
    return dict(trained.backbone.state_dict()), origin.source, origin.sha256 or ""


def _check_settings(spec: str, given: EncoderConfig, asked: EncoderConfig) -> None:
    """Check that name and input normalization of the encoder equal those of the weights."""
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
