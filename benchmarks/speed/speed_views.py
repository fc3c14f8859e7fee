"""Views per second of the batched renderers, torchvision's and lightly's transforms, and kornia's batched ones."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import kornia.augmentation as kornia
import torch
from lightly.transforms import SimCLRTransform
from lightly.transforms.utils import IMAGENET_NORMALIZE
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from sdclr.loading.batches import Batch, Loader, ResidentLoader
from sdclr.views.config import ViewConfig
from speed_harness import Candidate, Comparison, Effort, compare

TORCH, OPENCV = "sdclr, torch renderer", "sdclr, OpenCV renderer"
KORNIA = "kornia, float32 batch"
TORCHVISION, LIGHTLY = "torchvision v2, uint8 tensors", "lightly SimCLRTransform, Pillow images"


@dataclass(frozen=True, kw_only=True)
class ViewSize:
    """Settings of the views, and number of images in one timed call."""

    config: ViewConfig
    batch: int
    """Images per call of sdclr."""
    peer_batch: int
    """Images per call of the other libraries, which take much longer per image."""


def small_views(*, batch: int, peer_batch: int) -> ViewSize:
    """The paper's recipe for CIFAR."""
    return ViewSize(config=ViewConfig(image_size=32), batch=batch, peer_batch=peer_batch)


def compare_small(images: Tensor, size: ViewSize, effort: Effort) -> Comparison:
    """Views per second of small images in memory.

    Args:
        images: (N, 3, H, W) uint8.
        size: The views.
        effort: Duration of the measurement.
    """
    candidates = [
        ours(TORCH, ResidentLoader(images, size.config, seed=0, batch_size=size.batch), size.batch),
        peer(TORCHVISION, torchvision_view(size.config), list(images), size.peer_batch),
        peer(LIGHTLY, lightly_view(size.config), pictures(images), size.peer_batch),
        batched(KORNIA, kornia_views(size.config), images, size.batch),
    ]
    return compare(title(images, size), VIEWS_NOTE, "/s", candidates, effort)


VIEWS_NOTE = (
    "Two views of each image, from decoded images to one float32 batch in [0, 1], with the same probabilities and "
    "strengths. lightly's crop is bilinear (its only option), the others are bicubic; kornia's crop is not "
    "antialiased and not clamped to [0, 1]."
)


def title(images: Tensor, size: ViewSize) -> str:
    blur = " with blur" if size.config.blur else ""
    return f"Views at {size.config.image_size} px from {images.shape[-1]} px{blur}"


def ours(name: str, loader: Loader, batch: int) -> Candidate:
    batches: Iterator[Batch] = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    return Candidate(name, lambda: next(batches), units=2 * batch)


def peer(name: str, draw: Callable[[object], Tensor], images: Sequence[object], batch: int) -> Candidate:
    endless = itertools.cycle(images)

    def call() -> Tensor:
        chosen = itertools.islice(endless, batch)
        return torch.stack([draw(image) for image in chosen for _ in range(2)])

    return Candidate(name, call, units=2 * batch)


def batched(name: str, draw: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Candidate:
    """A candidate that draws both views of a whole batch `(N, 3, H, W)` of uint8 at once."""
    starts = itertools.cycle(range(0, len(images) - batch + 1, batch))

    def call() -> tuple[Tensor, Tensor]:
        start = next(starts)
        chosen = images[start : start + batch].float() / 255
        return draw(chosen), draw(chosen)

    return Candidate(name, call, units=2 * batch)


def pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]


def torchvision_view(config: ViewConfig) -> Callable[[object], Tensor]:
    """The same views by torchvision's transforms, for one image `(3, H, W)` of uint8."""
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
        v2.RandomGrayscale(config.gray),
        v2.ToDtype(torch.float32, scale=True),
    ]
    return v2.Compose(steps)


def lightly_view(config: ViewConfig) -> Callable[[object], Tensor]:
    """The same views by lightly's SimCLR transform, for one view of one Pillow image."""
    return lightly_transform(config).transforms[0]


def lightly_transform(config: ViewConfig, *, normalize: bool = False) -> SimCLRTransform:
    """The same views by lightly's SimCLR transform, for both views of one Pillow image."""
    return SimCLRTransform(
        input_size=config.image_size,
        cj_prob=config.jitter,
        cj_bright=config.brightness,
        cj_contrast=config.contrast,
        cj_sat=config.saturation,
        cj_hue=config.hue,
        min_scale=config.crop_scale[0],
        random_gray_scale=config.gray,
        gaussian_blur=config.blur,
        sigmas=config.blur_sigma,
        hf_prob=config.flip,
        normalize=IMAGENET_NORMALIZE if normalize else None,
    )


def kornia_views(config: ViewConfig) -> nn.Module:
    """The same views by kornia's transforms, drawn per image for a float32 batch `(N, 3, H, W)` in [0, 1]."""
    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    side = config.image_size
    steps: list[nn.Module] = [
        kornia.RandomResizedCrop(
            (side, side), config.crop_scale, config.crop_ratio, resample="BICUBIC", align_corners=False
        ),
        kornia.RandomHorizontalFlip(p=config.flip),
        kornia.ColorJitter(*jitter, p=config.jitter),
        kornia.RandomGrayscale(p=config.gray),
    ]
    if config.blur:
        # One kernel size for all: three times the largest sigma to each side.
        taps = 2 * round(3 * config.blur_sigma[1]) + 1
        steps.append(kornia.RandomGaussianBlur((taps, taps), config.blur_sigma, p=config.blur))
    return nn.Sequential(*steps)
