"""Views a second: the batched renderers against the per-image transforms of torchvision and lightly."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from sdclr.data.loading import Batch, Loader, ResidentLoader
from sdclr.data.sources import ArraySource
from sdclr.data.streaming import StreamLoader
from sdclr.data.views import ViewConfig
from speed_harness import Candidate, Comparison, Effort, compare

TORCH, OPENCV = "sdclr, torch renderer", "sdclr, OpenCV renderer"
TORCHVISION, LIGHTLY = "torchvision v2, uint8 tensors", "lightly SimCLRTransform, Pillow images"


@dataclass(frozen=True, kw_only=True)
class ViewSize:
    """Which views are drawn, and of how many images in one timed call."""

    config: ViewConfig
    batch: int
    """Images a call of ours."""
    peer_batch: int
    """Images a call of the others, which take so much longer for each."""


def small_views(*, batch: int, peer_batch: int) -> ViewSize:
    """The paper's recipe for CIFAR."""
    return ViewSize(config=ViewConfig(image_size=32), batch=batch, peer_batch=peer_batch)


def large_views(*, batch: int, image_size: int = 224) -> ViewSize:
    """The paper's recipe for ImageNet."""
    config = ViewConfig(image_size=image_size, crop_scale=(0.08, 1.0), blur=0.5)
    return ViewSize(config=config, batch=batch, peer_batch=batch)


def compare_small(images: Tensor, size: ViewSize, effort: Effort) -> Comparison:
    """Views a second of small images that lie in memory.

    Args:
        images: (N, 3, H, W) uint8.
        size: The views.
        effort: How long to measure.
    """
    candidates = [
        _ours(TORCH, ResidentLoader(images, size.config, seed=0, batch_size=size.batch), size.batch),
        _peer(TORCHVISION, torchvision_view(size.config), list(images), size.peer_batch),
        _peer(LIGHTLY, lightly_view(size.config), _pictures(images), size.peer_batch),
    ]
    return compare(_title(images, size), _NOTE, "/s", candidates, effort)


def compare_large(images: Tensor, size: ViewSize, effort: Effort) -> Comparison:
    """Views a second of large images, decoded beforehand. Arguments as for `compare_small`."""
    source = ArraySource(images.permute(0, 2, 3, 1).numpy())
    candidates = [
        _ours(OPENCV, StreamLoader(source, size.config, seed=0, batch_size=size.batch), size.batch),
        _ours(TORCH, ResidentLoader(images, size.config, seed=0, batch_size=size.batch), size.batch),
        _peer(LIGHTLY, lightly_view(size.config), _pictures(images), size.peer_batch),
    ]
    return compare(_title(images, size), _NOTE, "/s", candidates, effort)


_NOTE = (
    "Two views of each image, from decoded images to one float32 batch in [0, 1], with the same probabilities and "
    "strengths. lightly's crop is bilinear (it offers no other), the rest bicubic."
)


def _title(images: Tensor, size: ViewSize) -> str:
    blur = " with blur" if size.config.blur else ""
    return f"Views at {size.config.image_size} px from {images.shape[-1]} px{blur}"


def _ours(name: str, loader: Loader, batch: int) -> Candidate:
    batches: Iterator[Batch] = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    return Candidate(name, lambda: next(batches), units=2 * batch)


def _peer(name: str, draw: Callable[[object], Tensor], images: Sequence[object], batch: int) -> Candidate:
    endless = itertools.cycle(images)

    def call() -> Tensor:
        chosen = itertools.islice(endless, batch)
        return torch.stack([draw(image) for image in chosen for _ in range(2)])

    return Candidate(name, call, units=2 * batch)


def _pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]


def torchvision_view(config: ViewConfig) -> Callable[[object], Tensor]:
    """The recipe in torchvision's transforms, for one image `(3, H, W)` of uint8."""
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    steps: list[object] = [
        v2.RandomResizedCrop(
            config.image_size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        ),
        v2.RandomHorizontalFlip(config.flip),
        v2.RandomApply([jitter], config.jitter),
        v2.RandomGrayscale(config.grey),
        v2.ToDtype(torch.float32, scale=True),
    ]
    return v2.Compose(steps)


def lightly_view(config: ViewConfig) -> Callable[[object], Tensor]:
    """The recipe in lightly's SimCLR transform, for one Pillow image."""
    transform = SimCLRTransform(
        input_size=config.image_size,
        cj_prob=config.jitter,
        cj_bright=config.brightness,
        cj_contrast=config.contrast,
        cj_sat=config.saturation,
        cj_hue=config.hue,
        min_scale=config.crop_scale[0],
        random_gray_scale=config.grey,
        gaussian_blur=config.blur,
        sigmas=config.blur_sigma,
        hf_prob=config.flip,
        normalize=None,
    )
    return transform.transforms[0]
