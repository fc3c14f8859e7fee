"""Features of a source's images under a frozen encoder.

Images are seen through one deterministic view, stream through the encoder batch by batch, and only the features stay.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sdclr.data.decode import BadImage, prepare_worker
from sdclr.data.scan import Progress
from sdclr.data.sources import Source
from sdclr.errors import BadImageError, InputError

SMALL_SIDE = 96
"""Images up to this many pixels on both sides are seen whole."""

MAX_VIEWS_BYTES = 8 * 2**30
"""Memory that `load_views` takes at most."""

_View = tuple[int, NDArray[np.uint8] | BadImage]


class Features(NamedTuple):
    """Encoder features of a source.

    Attributes:
        values: (N, D) float32, in the source's order.
        kept: (N,) int64, the position in the source of each row.
        bad: The images left out because they cannot be decoded.
    """

    values: NDArray[np.float32]
    kept: NDArray[np.int64]
    bad: list[BadImage]


def evaluation_view(image: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """The deterministic view of an image that every evaluation uses.

    An image with both sides up to `SMALL_SIDE` is resized whole. Of a larger one the shorter side is brought to
    `image_size * 256 / 224` and the centre is cut out, as is customary on ImageNet. Both use antialiased bicubic.

    Args:
        image: (H, W, 3) RGB.
        image_size: Side S of the view in pixels.

    Returns:
        (S, S, 3) RGB; the image itself if it has that size already.
    """
    height, width = image.shape[:2]
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if max(height, width) <= SMALL_SIDE:
        if height == width == image_size:
            return image
    else:
        # Only the part that survives the centre crop is resampled. Pillow's filter reaches over the box's edge, so the
        # pixels are those of resizing everything and cropping afterwards.
        short, shorter = _resized_side(image_size), min(height, width)
        resized_width, resized_height = (int(short * side / shorter) for side in (width, height))
        left, top = round((resized_width - image_size) / 2), round((resized_height - image_size) / 2)
        x_scale, y_scale = width / resized_width, height / resized_height
        box = (
            left * x_scale,
            top * y_scale,
            min((left + image_size) * x_scale, width),
            min((top + image_size) * y_scale, height),
        )
    view = Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(view)


def extract_features(
    encoder: nn.Module,
    source: Source,
    *,
    image_size: int,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    amp: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
) -> Features:
    """Features of every image that can be decoded, by the encoder in eval mode.

    Memory stays at a few batches beyond the features themselves.

    Args:
        encoder: Maps (N, 3, S, S) float images in [0, 1] to (N, D) features. Its training mode is put back afterwards.
        source: What names the images.
        image_size: Side S of the evaluation view in pixels.
        batch_size: Images per forward pass.
        device: Where to run; the encoder is moved there. By default where the encoder is.
        amp: Run the forward pass in half precision (float16 on CUDA, bfloat16 elsewhere); features stay float32.
        workers: Processes that decode; 0 decodes in this one.
        progress: Called with (images done, images in all) after every batch.

    Returns:
        Features, their positions in the source, and what was left out.

    Raises:
        InputError: The source has no image that can be decoded, or the encoder's output is not (N, D).
    """
    total = len(source)
    loader: DataLoader[_View] = DataLoader(
        _Views(source, image_size),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=prepare_worker,
    )
    values: NDArray[np.float32] | None = None
    kept = np.empty(total, dtype=np.int64)
    bad: list[BadImage] = []
    done = 0
    with evaluating(encoder, device) as where:
        for seen, (positions, views, batch_bad) in enumerate(loader, start=1):
            bad.extend(batch_bad)
            if len(positions):
                features = encode_batch(encoder, views, where, amp=amp)
                if values is None:
                    values = np.empty((total, features.shape[1]), dtype=np.float32)
                values[done : done + len(positions)] = features.cpu().numpy()
                kept[done : done + len(positions)] = positions
                done += len(positions)
            if progress is not None:
                progress(min(seen * batch_size, total), total)
    if values is None:
        why = f"; the first: {bad[0].id}: {bad[0].reason}" if bad else ""
        raise InputError(f"{source.name}: none of {total} images can be decoded{why}. Check the path and the files")
    return Features(values[:done], kept[:done], bad)


class Views(NamedTuple):
    """Evaluation views of a source, held in memory.

    Attributes:
        images: (N, 3, S, S) uint8.
        kept: (N,) int64, the position in the source of each.
        bad: The images left out because they cannot be decoded.
    """

    images: Tensor
    kept: NDArray[np.int64]
    bad: list[BadImage]


def load_views(source: Source, *, image_size: int, workers: int = 0) -> Views:
    """The evaluation view of every image that can be decoded.

    Args:
        source: What names the images.
        image_size: Side S of the view in pixels.
        workers: Processes that decode; 0 decodes in this one.

    Raises:
        InputError: The views would not fit into `MAX_VIEWS_BYTES`, or no image can be decoded.
    """
    size = len(source) * 3 * image_size**2
    if size > MAX_VIEWS_BYTES:
        raise InputError(
            f"{source.name}: {len(source)} views of {image_size} px take {size / 2**30:.0f} GiB of memory, more than "
            f"{MAX_VIEWS_BYTES / 2**30:.0f}: probe without augmentation"
        )
    loader: DataLoader[_View] = DataLoader(
        _Views(source, image_size),
        batch_size=256,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=prepare_worker,
    )
    positions, images, bad = zip(*loader, strict=True)
    kept = np.concatenate(positions)
    if not len(kept):
        raise InputError(f"{source.name}: none of {len(source)} images can be decoded. Check the path and the files")
    return Views(torch.cat([part for part in images if len(part)]), kept, [item for part in bad for item in part])


def encode_images(
    encoder: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    amp: bool = False,
) -> Tensor:
    """Features of images that lie in memory, at the size the encoder wants.

    Args:
        encoder: As in `extract_features`; its training mode is put back afterwards.
        images: (N, 3, S, S) uint8, N at least 1.
        batch_size: Images per forward pass.
        device: Where to run; the encoder is moved there. By default where the encoder is.
        amp: Run the forward pass in half precision.

    Returns:
        (N, D) float32 features on the device.
    """
    with evaluating(encoder, device) as where:
        # Concatenated outside inference mode, they are an ordinary tensor, which a caller may train on.
        return torch.cat([encode_batch(encoder, batch, where, amp=amp) for batch in torch.split(images, batch_size)])


def encode_batch(encoder: nn.Module, images: Tensor, device: torch.device, *, amp: bool = False) -> Tensor:
    """One forward pass: (N, 3, S, S) uint8 to (N, D) float32 on the device. Call it inside `evaluating`."""
    # One memory layout whatever the images come from, so that features do not depend on it in the last bit.
    floats = images.to(device, non_blocking=True).contiguous().float().div_(255.0)
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=amp):
        features = encoder(floats)
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(
            f"the encoder gave {found} for {len(images)} images: it must give one row of features for each"
        )
    return features.float()


@contextmanager
def evaluating(encoder: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Eval mode inside; every submodule's own training mode is put back outside.

    Args:
        encoder: The module to freeze.
        device: Where to move it; None leaves it where its parameters are.

    Yields:
        The device the encoder is on.
    """
    if device is not None:
        encoder.to(device)
        where = torch.device(device)
    else:
        where = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield where
    finally:
        for module, training in modes:
            module.training = training


def checked_features(values: ArrayLike | Tensor, what: str, *, width: int | None = None) -> Tensor:
    """Features as a float32 tensor, on the device they are on.

    Args:
        values: (N, D) numbers.
        what: Their name in the error.
        width: The D they must have, if known.

    Returns:
        (N, D) float32; shares memory with `values` where it can.

    Raises:
        InputError: Not a table of finite numbers with at least one row, or not `width` wide.
    """
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, dtype=np.float32))
    tensor = tensor.detach().float()
    if tensor.ndim != 2 or not len(tensor):
        raise InputError(f"{what} must be an (N, D) table with at least one row, not {tuple(tensor.shape)}")
    if width is not None and tensor.shape[1] != width:
        raise InputError(f"{what} has {tensor.shape[1]} features per image, not {width}: use one encoder for all")
    if not bool(torch.isfinite(tensor).all()):
        row = int((~torch.isfinite(tensor)).any(dim=1).nonzero()[0])
        raise InputError(f"{what} row {row} is not finite: the encoder has diverged; use an earlier checkpoint")
    return tensor


def checked_labels(labels: ArrayLike | Tensor, what: str, *, count: int, num_classes: int) -> Tensor:
    """Class ids as an int64 tensor.

    Args:
        labels: (N,) class ids.
        what: Their name in the error.
        count: The N they must have.
        num_classes: Number of classes K.

    Returns:
        (N,) int64.

    Raises:
        InputError: A wrong number of them, or one outside `[0, num_classes)`.
    """
    tensor = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels, dtype=np.int64))
    tensor = tensor.long()
    if tensor.shape != (count,):
        raise InputError(f"{what} has shape {tuple(tensor.shape)} for {count} images: give one label per image")
    outside = tensor[(tensor < 0) | (tensor >= num_classes)]
    if len(outside):
        raise InputError(f"{what} holds {int(outside[0])}, not in [0, {num_classes}): drop images without a label")
    return tensor


class _Views(Dataset[_View]):
    """Position and evaluation view of each image, or why there is none."""

    def __init__(self, source: Source, image_size: int) -> None:
        self.source = source
        self.image_size = image_size
        # Twice the size needed keeps the resampling faithful. More than SMALL_SIDE, so that an image which is large on
        # disk is never taken for a small one because a JPEG was decoded at reduced scale.
        self.min_side = max(2 * _resized_side(image_size), SMALL_SIDE + 1)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> _View:
        try:
            image = self.source.image(position, min_side=self.min_side)
        except BadImageError as error:
            return position, BadImage(error.image_id, error.reason, counted=True)
        return position, evaluation_view(image, self.image_size)


def _collate(items: Sequence[_View]) -> tuple[NDArray[np.int64], Tensor, list[BadImage]]:
    """Positions (N,), views (N, 3, S, S) uint8, and the bad images of one batch."""
    good = [(position, view) for position, view in items if not isinstance(view, BadImage)]
    bad = [view for _, view in items if isinstance(view, BadImage)]
    positions = np.array([position for position, _ in good], dtype=np.int64)
    if not good:
        return positions, torch.empty(0, dtype=torch.uint8), bad
    return positions, torch.from_numpy(np.stack([view for _, view in good])).permute(0, 3, 1, 2), bad


def _resized_side(image_size: int) -> int:
    """What the shorter side of a large image is brought to before the centre crop, in pixels."""
    return round(image_size * 256 / 224)
