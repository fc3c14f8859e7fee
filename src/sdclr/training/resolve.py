"""Load an encoder by any of its names, with its preprocessing, and its run if it has one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from torch import nn

from sdclr.data.intensities import intensities_of
from sdclr.data.scan import first_shapes
from sdclr.data.sources import Source
from sdclr.encoders import DEFAULT, SMALL_SIDE, Encoder, Preprocessing, as_encoder, changes_size, load_encoder
from sdclr.encoders.config import GRAMMAR
from sdclr.encoders.saved import is_saved_encoder
from sdclr.errors import InputError
from sdclr.intensities import Intensities
from sdclr.training.run import Run

_SMALL_VIEW: Final = 96
"""Side in pixels to which small images are enlarged for a pretrained network: a fifth of the work at 224 px, with the
same kinds found (docs/results/rarity.md)."""


@dataclass(frozen=True)
class ResolvedEncoder:
    """An encoder ready for use."""

    name: str
    """Name that the user gave."""
    encoder: Encoder
    """In eval mode on the CPU."""
    run: Run | None = None
    """Run of the encoder; None if it has none."""
    intensities: Intensities | None = None
    """Intensity range for the images: that of the encoder's training, or otherwise that of the images."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of images for the encoder."""
        if self.intensities is None:
            return self.encoder.preprocessing
        return replace(self.encoder.preprocessing, intensities=self.intensities)

    @property
    def short_name(self) -> str:
        """Name in reports: the run's folder name, or the name that the user gave."""
        return self.name if self.run is None else self.run.path.resolve().name

    @property
    def results(self) -> Path | None:
        """The folder for evaluations of a run's encoder; None without a run."""
        return None if self.run is None else self.run.results

    def require_run(self, what: str) -> Run:
        """The run.

        Args:
            what: The feature that needs a run, for the error: "--score loss".

        Raises:
            InputError: If the encoder has no run.
        """
        if self.run is None:
            raise InputError(
                f"{what} needs a run of `sdclr pretrain`, which {self.name} is not: give --encoder runs/NAME"
            )
        return self.run


EncoderLike: TypeAlias = ResolvedEncoder | Run | nn.Module | str | Path | None
"""A run, its folder, an exported folder, `timm:NAME`, `timm:NAME=FILE`, a module, or None for the default encoder."""


def resolve_encoder(
    encoder: EncoderLike, images: Source | None = None, *, image_size: int | None = None
) -> ResolvedEncoder:
    """Load an encoder by any of its names.

    If the images are small (the first ones have both sides up to 96 px), a pretrained network that takes any size gets
    them at 96 px instead of its own size.

    Args:
        encoder: Name or object that the user gave.
        images: The images to encode.
        image_size: Side of the view in pixels, for pretrained networks that take images of any size.

    Raises:
        InputError: If the encoder does not exist, is unfinished or damaged, or its size cannot be changed.
    """
    if isinstance(encoder, ResolvedEncoder):
        return encoder
    found = _found(encoder, images, image_size)
    if images is not None:
        seen, given = intensities_of(images)
        own = found.encoder.preprocessing.intensities or Intensities()
        found = replace(found, intensities=(seen if given else own.over(seen)) or None)
    return found


def _found(
    encoder: Run | nn.Module | str | Path | None, images: Source | None, image_size: int | None
) -> ResolvedEncoder:
    if isinstance(encoder, nn.Module):
        return ResolvedEncoder(type(encoder).__name__, _sized(as_encoder(encoder), images, image_size))
    if isinstance(encoder, (str, Path)) and _is_run(Path(encoder).expanduser()):
        encoder = Run.open(Path(encoder).expanduser())
    if isinstance(encoder, Run):
        return ResolvedEncoder(str(encoder.path), _sized(encoder.encoder(), None, image_size), encoder)
    name = DEFAULT if encoder is None else str(encoder)
    return ResolvedEncoder(name, _sized(load_encoder(encoder), images, image_size))


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, finished or not. Exports and bare copies of an encoder are not.

    Raises:
        InputError: If the folder holds neither a run nor an encoder.
    """
    if not path.is_dir():
        return False
    exported = (path / "model.safetensors").is_file()
    if (path / "config.json").is_file() and not exported:
        return True
    if not is_saved_encoder(path):
        raise InputError(f"{path} holds no encoder: an encoder is {GRAMMAR}")
    return False


def _sized(encoder: Encoder, images: Source | None, image_size: int | None) -> Encoder:
    flexible = changes_size(encoder)
    if image_size is None and flexible and images is not None and _are_small(images):
        image_size = _SMALL_VIEW
    if image_size is None or image_size == encoder.image_size:
        return encoder
    if not flexible:
        raise InputError(
            f"{encoder.config.name!r} takes images of {encoder.image_size} px only: leave out the image size"
        )
    preprocessing = replace(encoder.preprocessing, image_size=image_size)
    return Encoder(
        encoder.backbone, encoder.config, image_size, preprocessing=preprocessing, origin=encoder.origin
    ).eval()


def _are_small(images: Source) -> bool:
    shapes = first_shapes(images)
    return bool(shapes) and max(max(shape) for shape in shapes) <= SMALL_SIDE
