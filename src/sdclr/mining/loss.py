"""The contrastive loss of each image, with the same negatives for all images."""

from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

_BLOCK: Final = 4096


def draw_references(positions: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Images to use as negatives: `count` random positions, or all if there are fewer; sorted."""
    chosen = np.random.default_rng(seed).permutation(positions)[:count]
    return np.sort(chosen)


def reference_loss(a: ArrayLike, b: ArrayLike, references: ArrayLike, temperature: float) -> NDArray[np.float32]:
    """NT-Xent of each image with a fixed set of negatives (Chen et al., ICML 2020, eq. 1).

    This is the loss of the image in a batch of itself and the reference images, `nt_xent(…, reduction="none")`. It does
    not depend on the other scored images. An image is not a negative of itself.

    Args:
        a: (N, D) projections of the first view, by its branch in training.
        b: (N, D) projections of the second view.
        references: (R,) rows whose 2R projections are the negatives.
        temperature: τ.

    Returns:
        (N,) in nats, the mean over both views as anchors; nan for rows with nan.
    """
    first, second = np.asarray(a), np.asarray(b)
    chosen = torch.as_tensor(np.asarray(references, dtype=np.int64))
    negatives = F.normalize(torch.cat([_rows(first, chosen), _rows(second, chosen)]))
    excluded = chosen.repeat(2)
    losses = np.empty(len(first), dtype=np.float32)
    for begin in range(0, len(first), _BLOCK):
        rows = torch.arange(begin, min(begin + _BLOCK, len(first)))
        left, right = F.normalize(_rows(first, rows)), F.normalize(_rows(second, rows))
        positive = (left * right).sum(1, keepdim=True) / temperature
        itself = rows[:, None] == excluded
        both = [_anchored(anchors, positive, negatives, itself, temperature) for anchors in (left, right)]
        losses[begin : begin + len(rows)] = torch.stack(both).mean(0).numpy()
    return losses


def _anchored(anchors: Tensor, positive: Tensor, negatives: Tensor, itself: Tensor, temperature: float) -> Tensor:
    logits = (anchors @ negatives.T / temperature).masked_fill(itself, -torch.inf)
    return torch.cat([positive, logits], dim=1).logsumexp(dim=1) - positive[:, 0]


def _rows(values: NDArray[np.float32], rows: Tensor) -> Tensor:
    return torch.from_numpy(np.array(values[rows.numpy()], dtype=np.float32))
