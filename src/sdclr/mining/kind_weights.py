"""Sampling weights for training that show each separate kind of image alike often."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sdclr.data.sources import Source
from sdclr.errors import InputError
from sdclr.method.rebalancing import curated_weights
from sdclr.mining.before import SCORES
from sdclr.mining.scores import MINE_AGAIN, Scores

CAP: Final = 10.0
"""Default limit of a weight, as a multiple of the mean, as in density-guided sampling."""


def kind_weights(kinds: ArrayLike, *, cap: float = CAP) -> NDArray[np.float64]:
    """Weights with which `pretrain(…, weights=…)` samples each kind alike often, up to a limit for the smallest kinds.

    `docs/results/adapting.md` measures the effect on the features.

    Args:
        kinds: (N,) kind of each image, such as `Scores.kinds`. Images with a negative number are of no kind and get
            the mean weight.
        cap: Largest weight as a multiple of the mean, at least 1.

    Returns:
        (N,) weights of mean 1: inversely proportional to the size of the kind, but at most `cap`.

    Raises:
        InputError: The kinds are not whole numbers `(N,)`, or the limit is below 1.

    Examples:
        >>> sdclr.kind_weights([0, 0, 0, 1])  # a kind of three images, and one of a single image
        array([0.66666667, 0.66666667, 0.66666667, 2.        ])
    """
    found = np.asarray(kinds)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"kinds have shape {found.shape} and type {found.dtype}: give one whole number for each image")
    if not 1 <= cap < np.inf:
        raise InputError(f"cap={cap}: the largest weight is 1 or more times the mean")
    clusters = torch.from_numpy(found.astype(np.int64))[:, None]
    weights: NDArray[np.float64] = curated_weights(clusters, share=1 / cap).numpy()
    return weights


def weights_of_scores(images: Source, place: Path) -> NDArray[np.float64]:
    """`kind_weights` of images that `sdclr mine` has scored.

    Args:
        images: The N images.
        place: The folder of `sdclr mine`, or its scores.parquet.

    Returns:
        (N,) weights.

    Raises:
        InputError: There are no such scores, or an image is not among them.
    """
    file = place / SCORES if place.is_dir() else place
    scores = Scores.read(file)
    kind_of = dict(zip(scores.ids, scores.kinds.tolist(), strict=True))
    missing = [image_id for image_id in images.ids if image_id not in kind_of]
    if missing:
        raise InputError(
            f"{file} has no kind for {len(missing):,} of {len(images):,} images of {images.name}, the first: "
            f"{missing[0]!r}: {MINE_AGAIN}"
        )
    return kind_weights(np.array([kind_of[image_id] for image_id in images.ids], dtype=np.int64))
