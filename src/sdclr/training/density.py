"""Distances and clusters of a run's images in the encoder's features, for density, curation and outside images."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.choices import Amp
from sdclr.data.sources import Source
from sdclr.encoders import Preprocessing
from sdclr.errors import InputError
from sdclr.features.extract import checked_features, encode_images, feature_batches
from sdclr.features.hierarchy import hierarchical_kmeans, kmeans_centers, nearest_center
from sdclr.features.nearest import nearest
from sdclr.method.rebalancing.curation import Curation
from sdclr.method.rebalancing.density import Density
from sdclr.method.rebalancing.outside import Outside
from sdclr.progress import stage
from sdclr.training.distributed import Processes
from sdclr.training.feed import Feed
from sdclr.training.randomness import own_randomness

FITTED = 50_000
"""Maximum number of images for fitting cluster centers."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings for computing features."""

    image_size: int
    """Side of the encoder's images in pixels."""
    exact: int = 1_000_000
    """Maximum number of images that others are compared with. From a larger set, this many are drawn at random."""
    seed: int = 0
    """Seed of this draw and of the initial clusters."""
    amp: Amp = "none"
    """Precision of the encoder's forward pass."""
    workers: int = 0
    """Number of processes that decode images outside memory."""
    batch_size: int = 256
    """Images per forward pass."""


@stage("measuring how dense the images lie")
def refresh(
    weights: Density | Curation | Outside,
    encoder: nn.Module,
    feed: Feed,
    place: Processes,
    *,
    image_size: int,
    amp: Amp,
) -> None:
    """Recompute the weights of a rebalancer from the current encoder of a run. All processes call this together.

    The encoder, its mode and the random state do not change.

    Args:
        weights: The rebalancer.
        encoder: The dense network's encoder, which maps images to features.
        feed: The run's images.
        place: The rank of this process.
        image_size: Side of the encoder's images in pixels.
        amp: Precision of the encoder's forward pass.

    Raises:
        InputError: If no image can be decoded any more, or features are not finite.
    """
    exact = weights.config.exact if isinstance(weights, Density) else FITTED
    reading = Reading(image_size=image_size, exact=exact, seed=weights.config.seed, amp=amp, workers=feed.workers)
    if isinstance(weights, Curation):
        levels = weights.config.levels
        weights.update(cluster_tree(encoder, feed.images, place=place, reading=reading, levels=levels))
    elif isinstance(weights, Outside):
        own, count = ~weights.outside.cpu().numpy(), weights.config.clusters
        weights.update(*center_closeness(encoder, feed.images, own, place=place, reading=reading, clusters=count))
    elif weights.config.control == "clusters":
        clusters = weights.config.clusters
        weights.update(cluster_rarity(encoder, feed.images, place=place, reading=reading, clusters=clusters))
    else:
        k = weights.config.neighbors
        weights.update(neighbor_distances(encoder, feed.images, place=place, reading=reading, k=k))


def neighbor_distances(
    encoder: nn.Module, images: Tensor | Source, *, place: Processes, reading: Reading, k: int = 10
) -> Tensor:
    """Mean cosine distance of each image to its k nearest neighbors in the encoder's features.

    Each process encodes its share of the images, and then searches the neighbors of that share among all. All processes
    call this together, and each gets all distances.

    Args:
        encoder: Maps images to features `(n, D)`; used in eval mode, with the first process's running statistics.
        images: `(N, 3, H, W)` uint8 on the encoder's device, or a source.
        place: The rank of this process.
        reading: Settings for computing features.
        k: Number of neighbors; fewer if there are fewer other images.

    Returns:
        `(N,)` float32 on the CPU. An image that can't be decoded any more gets the median distance.

    Raises:
        InputError: If no image can be decoded, or features are not finite.
    """
    with own_randomness(place.device):
        features = _read(encoder, images, place, reading)
        own = (
            nearest(features.base, min(k + 1, len(features.base)), queries=features.own) if len(features.own) else None
        )
        mean = torch.empty(0) if own is None else _mean_to_others(own.distances, own.indices, features.rows)
    return _of_all(mean, features.positions, len(images), place)


def cluster_rarity(
    encoder: nn.Module, images: Tensor | Source, *, place: Processes, reading: Reading, clusters: int | None = None
) -> Tensor:
    """One over the size of each image's cluster, by k-means of features scaled to length 1.

    Arguments, errors and result are as in `neighbor_distances`.

    Args:
        encoder: Maps images to features.
        images: Pixels, or a source.
        place: The rank of this process.
        reading: Settings for computing features.
        clusters: Number of clusters; by default the square root of the number of images.
    """
    with own_randomness(place.device):
        features = _read(encoder, images, place, reading)
        count = min(clusters or max(1, round(len(images) ** 0.5)), len(features.base))
        centers = torch.from_numpy(place.broadcast(_centers(features.base, count, reading.seed)))
        chosen = nearest_center(F.normalize(features.own).cpu(), centers)
        sizes = torch.stack(place.gather(torch.bincount(chosen, minlength=count))).sum(dim=0)
    return _of_all(1 / sizes[chosen].float(), features.positions, len(images), place)


def cluster_tree(
    encoder: nn.Module, images: Tensor | Source, *, place: Processes, reading: Reading, levels: int = 2
) -> Tensor:
    """Clusters of each image by hierarchical k-means of features scaled to length 1.

    With M compared images, level l of L from the top has `M^(l / (L + 1))` clusters, so that all clusters have about
    equally many parts. Arguments and errors are as in `neighbor_distances`.

    Args:
        encoder: Maps images to features.
        images: Pixels, or a source.
        place: The rank of this process.
        reading: Settings for computing features.
        levels: Levels of the tree.

    Returns:
        `(N, levels)` int64 on the CPU, the largest clusters first; -1 for an image that can't be decoded any more.
    """
    with own_randomness(place.device):
        features = _read(encoder, images, place, reading)
        base = F.normalize(features.base).cpu().numpy()
        counts = [round(len(base) ** (level / (levels + 1))) for level in range(levels, 0, -1)]
        tree = place.broadcast(hierarchical_kmeans(base, counts, seed=reading.seed))
        centers, paths = map(torch.from_numpy, tree)
        chosen = nearest_center(F.normalize(features.own).cpu(), centers)
    smallest = _gathered_values(chosen.float(), features.positions, len(images), place)
    known = ~smallest.isnan()
    return torch.where(known[:, None], paths[smallest.nan_to_num(0).long()], -1)


def center_closeness(
    encoder: nn.Module,
    images: Tensor | Source,
    own: NDArray[np.bool_],
    *,
    place: Processes,
    reading: Reading,
    clusters: int,
) -> tuple[Tensor, Tensor]:
    """Cluster the own images by k-means of features scaled to length 1, and compare each image with each center.

    Arguments and errors are those of `neighbor_distances`.

    Args:
        encoder: Maps images to features.
        images: Pixels, or a source.
        own: `(N,)` True for the images to cluster.
        place: The rank of this process.
        reading: Settings for computing features.
        clusters: Number of clusters K; fewer if there are fewer own images.

    Returns:
        `(N,)` int64 clusters, -1 for outside images and for images that cannot be decoded any more; and `(N, K)`
        cosines to the centers, NaN for an image that cannot be decoded. Both are on the CPU.
    """
    with own_randomness(place.device):
        features = _read(encoder, images, place, reading, among=own)
        count = min(clusters, len(features.base))
        centers = torch.from_numpy(place.broadcast(_centers(features.base, count, reading.seed)))
        rows = F.normalize(features.own).cpu()
        nearest_one = nearest_center(rows, centers).float()
        values = torch.cat([nearest_one[:, None], rows @ F.normalize(centers).T], dim=1)
    found = _gathered_values(values, features.positions, len(images), place)
    known = torch.from_numpy(own) & ~found[:, 0].isnan()
    return torch.where(known, found[:, 0].nan_to_num(0).long(), -1), found[:, 1:]


class _Features(NamedTuple):
    """Features of one process's share of the images, and the features that all images are compared with."""

    own: Tensor
    """(n, D) features of the decoded images of this process's share."""
    positions: NDArray[np.int64]
    """(n,) positions of these images."""
    base: Tensor
    """(M, D) features that all images are compared with; equal on every process."""
    rows: Tensor
    """(n,) row in `base` of each image of the share; -1 if it has none."""


def _read(
    encoder: nn.Module,
    images: Tensor | Source,
    place: Processes,
    reading: Reading,
    *,
    among: NDArray[np.bool_] | None = None,
) -> _Features:
    """Features of this process's share, and the features that all compare with: by default drawn from all images."""
    # Whole batches: the composition of a batch does not depend on the number of processes.
    batches = -(-len(images) // reading.batch_size)
    begin, end = (batches * rank // place.world * reading.batch_size for rank in (place.rank, place.rank + 1))
    share = range(begin, min(end, len(images)))
    with _as_on_the_first(encoder, place):
        own, positions = _encoded(encoder, images, share, place, reading)
    if place.world > 1:
        own = own.view(len(own), place.any(own.shape[1]))  # a process without images gets D from the others
    drawn = np.ones(len(images), dtype=bool) if among is None else among
    if drawn.sum() > reading.exact:
        comparable, drawn = np.flatnonzero(drawn), np.zeros(len(images), dtype=bool)
        random = np.random.default_rng(reading.seed)
        drawn[comparable[random.choice(len(comparable), reading.exact, replace=False)]] = True
    kept = drawn[positions]
    base = _gathered(own[torch.from_numpy(kept).to(own.device)], place)
    if not len(base):
        raise InputError(f"none of the {len(images)} images can be decoded any more: check the path and the files")
    before = sum(place.gather(int(kept.sum()))[: place.rank])
    rows = np.where(kept, before + np.cumsum(kept) - 1, -1)
    return _Features(own, positions, checked_features(base, "features"), torch.from_numpy(rows).to(own.device))


def _encoded(
    encoder: nn.Module, images: Tensor | Source, share: range, place: Processes, reading: Reading
) -> tuple[Tensor, NDArray[np.int64]]:
    """Features (n, D) of a share of the images on the device, and their positions (n,)."""
    if not len(share):
        return torch.empty(0, 0, device=place.device), np.empty(0, dtype=np.int64)
    how: dict[str, Any] = {"batch_size": reading.batch_size, "device": place.device, "amp": reading.amp}
    size = reading.image_size
    if isinstance(images, Tensor):
        pixels = images[share.start : share.stop]
        if pixels.shape[2:] == (size, size):
            return encode_images(encoder, pixels, **how), np.array(share)
        parts = [
            encode_images(encoder, _resized(part, size), **how) for part in torch.split(pixels, reading.batch_size)
        ]
        return torch.cat(parts), np.array(share)
    found = [
        batch
        for batch in feature_batches(
            encoder,
            images,
            preprocessing=Preprocessing(image_size=size),
            workers=reading.workers,
            positions=share,
            **how,
        )
        if len(batch.positions)
    ]
    if not found:
        return torch.empty(0, 0, device=place.device), np.empty(0, dtype=np.int64)
    values = np.concatenate([batch.values for batch in found])
    return torch.from_numpy(values).to(place.device), np.concatenate([batch.positions for batch in found])


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize whole small images, as in evaluations."""
    floats = F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True)
    return floats.round_().clamp_(0, 255).to(torch.uint8)


@contextlib.contextmanager
def _as_on_the_first(encoder: nn.Module, place: Processes) -> Iterator[None]:
    """Inside the block, all processes use the first process's buffers. Afterwards their own are restored.

    On CPUs each process has running statistics of its own batches. A checkpoint has those of the first process.
    """
    buffers = list(encoder.buffers()) if place.world > 1 else []
    own = [buffer.clone() for buffer in buffers]
    for buffer in buffers:
        dist.broadcast(buffer, src=0)
    try:
        yield
    finally:
        for buffer, before in zip(buffers, own, strict=True):
            buffer.copy_(before)


def _gathered(rows: Tensor, place: Processes) -> Tensor:
    """Rows of all processes in the order of ranks; numbers of rows may differ."""
    if place.world == 1:
        return rows
    counts = place.gather(len(rows))
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: len(rows)] = rows
    every = rows.new_empty(place.world * len(padded), rows.shape[1])
    dist.all_gather_into_tensor(every, padded)
    return torch.cat([part[:count] for part, count in zip(torch.split(every, len(padded)), counts, strict=True)])


def _mean_to_others(distances: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """Mean distance (n,) to neighbors (n, k + 1) without the image itself.

    An image with more than k copies may be absent from its own neighbors. Then the last neighbor is left out instead.
    """
    if distances.shape[1] == 1:
        return distances[:, 0].cpu()
    itself = indices == rows[:, None]
    itself[:, -1] |= ~itself.any(dim=1)
    return (distances.masked_fill(itself, 0).sum(dim=1) / (distances.shape[1] - 1)).cpu()


def _centers(features: Tensor, count: int, seed: int) -> NDArray[np.float32]:
    """k-means centers (count, D) of the normalized features."""
    chosen = np.arange(len(features))
    if len(chosen) > FITTED:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), FITTED, replace=False))
    rows = F.normalize(features[torch.from_numpy(chosen).to(features.device)]).cpu().numpy()
    return kmeans_centers(rows, count, seed=seed)


def _of_all(values: Tensor, positions: NDArray[np.int64], count: int, place: Processes) -> Tensor:
    """Values (count,) of all images, gathered from all processes; the median for images without a value."""
    found = _gathered_values(values, positions, count, place)
    return found.nan_to_num(float(found.nanmedian()))


def _gathered_values(values: Tensor, positions: NDArray[np.int64], count: int, place: Processes) -> Tensor:
    """Values (count, …) of all images, gathered from all processes; NaN for images without a value."""
    found = torch.full((count, *values.shape[1:]), torch.nan)
    for at, share in place.gather((positions, values.numpy())):
        found[torch.from_numpy(at)] = torch.from_numpy(share)
    return found
