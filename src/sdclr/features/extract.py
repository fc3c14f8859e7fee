"""Features of a source's images from a frozen encoder.

Each image has one deterministic view. Views pass through the encoder in batches, and only the features are kept.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sdclr.choices import Amp
from sdclr.data.sources import Source
from sdclr.decoding.decode import BadImage
from sdclr.encoders.preprocessing import SMALL_SIDE, Preprocessing
from sdclr.errors import InputError
from sdclr.fastest import forward_amp
from sdclr.features.inference import evaluating, for_inference, run_in_pieces
from sdclr.features.view import evaluation_view, view_loader
from sdclr.out_of_memory import enough_memory
from sdclr.precision import autocast_dtype
from sdclr.progress import stage

__all__ = [
    "SMALL_SIDE",
    "FeatureBatch",
    "Features",
    "Views",
    "checked_features",
    "checked_labels",
    "encode_batch",
    "encode_images",
    "evaluating",
    "evaluation_view",
    "extract_features",
    "feature_batches",
    "load_views",
    "settled_amp",
]

MAX_VIEWS_BYTES = 8 * 2**30
"""Maximum memory of `load_views` in bytes."""

_CHECKED_AT_ONCE = 65_536
"""Number of rows of a feature table that are checked at once."""


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


class FeatureBatch(NamedTuple):
    """Features of some images of a source.

    Attributes:
        values: (n, D) float32, in the source's order; n and D are 0 if all images of a batch are bad.
        positions: (n,) int64, the position in the source of each row.
        bad: Images of the batch that cannot be decoded.
        seen: Number of images processed so far, including bad ones.
    """

    values: NDArray[np.float32]
    positions: NDArray[np.int64]
    bad: list[BadImage]
    seen: int


def feature_batches(
    encoder: nn.Module,
    source: Source,
    *,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    amp: Amp = "none",
    workers: int = 0,
    positions: Sequence[int] | None = None,
) -> Iterator[FeatureBatch]:
    """Features in batches, for sets whose features do not fit into memory; `extract_features` collects them.

    Arguments and errors are those of `extract_features`; `positions` are the requested images, by default all.

    Yields:
        Batches in the source's order. The encoder's training mode is restored after the last.
    """
    asked = range(len(source)) if positions is None else positions
    with enough_memory(batch_size), evaluating(encoder, device) as where:
        network = for_inference(encoder)
        loader = view_loader(source, preprocessing, asked, batch_size=batch_size, workers=workers, device=where)
        seen, kept, views, bad = 0, [], [], []
        for piece_kept, piece_views, piece_bad in loader:
            seen += len(piece_kept) + len(piece_bad)
            bad += piece_bad
            if len(piece_kept):
                kept.append(piece_kept)
                views.append(piece_views.to(where, non_blocking=True))
            if seen % batch_size and seen < len(asked):
                continue
            if kept:
                values = encode_batch(network, torch.cat(views), where, amp=amp).cpu().numpy()
                yield FeatureBatch(values, np.concatenate(kept), bad, seen)
            else:
                yield FeatureBatch(np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=np.int64), bad, seen)
            kept, views, bad = [], [], []


def extract_features(
    encoder: nn.Module,
    source: Source,
    *,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    amp: Amp = "none",
    workers: int = 0,
) -> Features:
    """Features of every readable image, from the encoder in eval mode.

    Besides the features, only a few batches are in memory.

    Args:
        encoder: Maps (N, 3, S, S) float images in [0, 1] to (N, D) features. Its training mode is restored afterwards.
        source: The images.
        preprocessing: Size S of the evaluation view in pixels, crop and interpolation.
        batch_size: Images per forward pass.
        device: Device to run on; the encoder is moved there. By default the encoder's device.
        amp: Precision of the forward pass; features stay float32. `auto` selects bfloat16 if it is clearly faster (as
            timed on a CPU), otherwise float32.
        workers: Processes that decode; 0 decodes in this process.

    Returns:
        Features, their positions in the source, and the images left out.

    Raises:
        InputError: The source has no readable image, or the encoder's output is not (N, D).
    """
    total = len(source)
    values: NDArray[np.float32] | None = None
    kept = np.empty(total, dtype=np.int64)
    bad: list[BadImage] = []
    done = 0
    batches = feature_batches(
        encoder, source, preprocessing=preprocessing, batch_size=batch_size, device=device, amp=amp, workers=workers
    )
    with stage("reading images", total) as update:
        for batch in batches:
            bad += batch.bad
            if len(batch.positions):
                if values is None:
                    values = np.empty((total, batch.values.shape[1]), dtype=np.float32)
                rows = slice(done, done + len(batch.positions))
                values[rows], kept[rows] = batch.values, batch.positions
                done = rows.stop
            update(batch.seen)
    if values is None:
        why = f"; the first: {bad[0].id}: {bad[0].reason}" if bad else ""
        raise InputError(f"{source.name}: none of {total} images can be decoded{why}. Check the path and the files")
    return Features(values[:done], kept[:done], bad)


class Views(NamedTuple):
    """Evaluation views of a source, held in memory.

    Attributes:
        images: (N, 3, S, S) uint8.
        kept: (N,) int64, the position in the source of each view.
        bad: The images left out because they cannot be decoded.
    """

    images: Tensor
    kept: NDArray[np.int64]
    bad: list[BadImage]


@stage("reading images")
def load_views(source: Source, *, preprocessing: Preprocessing, workers: int = 0) -> Views:
    """The evaluation view of every readable image.

    Args:
        source: The images.
        preprocessing: Size S of the view in pixels, crop and interpolation.
        workers: Processes that decode; 0 decodes in this process.

    Raises:
        InputError: The views would not fit into `MAX_VIEWS_BYTES`, or no image can be decoded.
    """
    side = preprocessing.image_size
    size = len(source) * 3 * side**2
    if size > MAX_VIEWS_BYTES:
        raise InputError(
            f"{source.name}: {len(source)} views of {side} px take {size / 2**30:.0f} GiB of memory, more than "
            f"{MAX_VIEWS_BYTES / 2**30:.0f}: probe without augmentation"
        )
    positions, images, bad = zip(*view_loader(source, preprocessing, range(len(source)), workers=workers), strict=True)
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
    amp: Amp = "none",
) -> Tensor:
    """Features of images in memory, which have the encoder's input size.

    Args:
        encoder: As in `extract_features`; its training mode is restored afterwards.
        images: (N, 3, S, S) uint8, N at least 1.
        batch_size: Images per forward pass.
        device: Device to run on; the encoder is moved there. By default the encoder's device.
        amp: As in `extract_features`.

    Returns:
        (N, D) float32 features on the device.
    """
    with evaluating(encoder, device) as where:
        # Concatenating outside inference mode gives an ordinary tensor, which a caller may train on.
        return torch.cat([encode_batch(encoder, batch, where, amp=amp) for batch in torch.split(images, batch_size)])


def encode_batch(encoder: nn.Module, images: Tensor, device: torch.device, *, amp: Amp = "none") -> Tensor:
    """One forward pass: (N, 3, S, S) uint8 to (N, D) float32 on the device. Call it inside `evaluating`."""
    with enough_memory(len(images)):
        # One memory layout for images from any source, because the last bit of features depends on it.
        floats = images.to(device, non_blocking=True).contiguous().float().div_(255.0)
    dtype = autocast_dtype(forward_amp(amp, encoder, tuple(floats.shape[1:]), device), device)

    def encode(count: int) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            found: Tensor = run_in_pieces(encoder, floats[:count])
        return found

    with enough_memory(len(images), probe=encode):
        features = encode(len(images))
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(
            f"the encoder gave {found} for {len(images)} images: it must give one row of features for each"
        )
    return features.float()


def settled_amp(amp: Amp, encoder: nn.Module, size: int, device: torch.device | str | None = None) -> Amp:
    """The precision of passes over images of S x S pixels, with `auto` replaced by the faster one on this machine.

    Args:
        amp: The requested precision.
        encoder: As in `extract_features`.
        size: S.
        device: Device to run on, as in `extract_features`.
    """
    with evaluating(encoder, device) as where:
        return forward_amp(amp, for_inference(encoder), (3, size, size), where)


def checked_features(values: ArrayLike | Tensor, what: str, *, width: int | None = None) -> Tensor:
    """Check features, and convert them to a float32 tensor on their device.

    Args:
        values: (N, D) numbers.
        what: Their name in the error message.
        width: Required D, if known.

    Returns:
        (N, D) float32; shares memory with `values` if possible.

    Raises:
        InputError: `values` is not a table of finite numbers with at least one row, or D is not `width`.
    """
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, dtype=np.float32))
    tensor = tensor.detach().float()
    if tensor.ndim != 2 or not len(tensor):
        raise InputError(f"{what} must be an (N, D) table with at least one row, not {tuple(tensor.shape)}")
    if width is not None and tensor.shape[1] != width:
        raise InputError(f"{what} has {tensor.shape[1]} features per image, not {width}: use one encoder for all")
    begin = 0
    for part in torch.split(tensor, _CHECKED_AT_ONCE):  # `isfinite` of the whole table would take too much memory
        if not bool(torch.isfinite(part).all()):
            row = begin + int((~torch.isfinite(part)).any(dim=1).nonzero()[0])
            raise InputError(f"{what} row {row} is not finite: the encoder has diverged; use an earlier checkpoint")
        begin += len(part)
    return tensor


def checked_labels(labels: ArrayLike | Tensor, what: str, *, count: int, num_classes: int) -> Tensor:
    """Check class ids, and convert them to an int64 tensor.

    Args:
        labels: (N,) class ids.
        what: Their name in the error message.
        count: Required N.
        num_classes: Number of classes K.

    Returns:
        (N,) int64.

    Raises:
        InputError: The number of labels is wrong, or a label is outside `[0, num_classes)`.
    """
    tensor = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels, dtype=np.int64))
    tensor = tensor.long()
    if tensor.shape != (count,):
        raise InputError(f"{what} has shape {tuple(tensor.shape)} for {count} images: give one label per image")
    outside = tensor[(tensor < 0) | (tensor >= num_classes)]
    if len(outside):
        raise InputError(f"{what} holds {int(outside[0])}, not in [0, {num_classes}): drop images without a label")
    return tensor
