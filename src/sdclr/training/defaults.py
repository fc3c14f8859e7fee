"""Settings for images of one's own."""

from contextlib import suppress
from typing import Final

import torch

from sdclr.data.scan import is_small
from sdclr.data.sources import Source
from sdclr.data.views import ViewConfig
from sdclr.encoders import EncoderConfig
from sdclr.errors import BadImageError, InputError
from sdclr.method.frameworks import MoCoConfig
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig

ADAPTS_FROM: Final = 250
"""Images from which on a ratio adapts: fewer were never tried, and a tenth of them is held out for it."""


def for_images(source: Source, *, gpu: bool | None = None, adapt: bool = True) -> PretrainConfig:
    """A start for images of one's own, by their size and number and by the machine. Change it as you learn more.

    Small images (both sides up to 96 px, all equal) keep their size and get a ResNet-18 with the small stem; larger
    ones are seen at 224 px (128 px without a GPU). Without a GPU the network is a quarter as wide. How much is pruned
    follows the generalisation gap, since a fixed ratio costs accuracy in narrow networks and short runs
    (docs/results/adaptive.md). A batch takes at most a quarter of the images.

    Args:
        source: The images.
        gpu: Whether a GPU will train; by default whether there is one.
        adapt: Let the pruning ratio adapt, as long as there are 250 images; otherwise a light one stays as it is.

    Raises:
        InputError: If there are fewer than 8 images.
    """
    if len(source) < 8:
        raise InputError(
            f"{source.name} has {len(source)} images: contrast needs 8 at the very least, and wants thousands"
        )
    gpu = torch.cuda.is_available() if gpu is None else gpu
    small = is_small(source)
    size = _side(source) if small else (224 if gpu else 128)
    batch = 512 if small and gpu else 256
    while batch > max(2, len(source) // 4):
        batch //= 2
    views = ViewConfig(image_size=size) if small else ViewConfig(image_size=size, crop_scale=(0.08, 1.0), blur=0.5)
    return PretrainConfig(
        encoder=EncoderConfig(name="resnet18" if small or not gpu else "resnet50", width=None if gpu else 16),
        views=views,
        damage=DamageConfig(
            ratio="adaptive" if adapt and len(source) >= ADAPTS_FROM else 0.2, independent_norm="statistics"
        ),
        optim=OptimConfig(lr=0.5 * batch / 512, warmup_epochs=10),
        moco=_moco_for(len(source), batch),
        temperature=0.2,
        batch_size=batch,
        epochs=200,
    )


def _side(source: Source) -> int:
    """The longer side, in pixels, of the first image that can be decoded."""
    for index in range(len(source)):
        with suppress(BadImageError):
            return int(max(source.image(index).shape[:2]))
    raise InputError(f"{source.name}: none of its {len(source)} images can be decoded; check the files")


def _moco_for(images: int, batch: int) -> MoCoConfig:
    """A queue of half the images at most, so that few keys are of the query's own image; momentum by their number."""
    queue = min(65536, batch * max(1, images // (2 * batch)))
    return MoCoConfig(queue=queue, momentum=0.999 if images >= 200_000 else 0.99)
