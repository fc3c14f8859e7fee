"""Classification by nearest neighbors in feature space, without training or a learning rate."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.features.extract import checked_features, checked_labels
from sdclr.features.nearest import GROUP, largest


def knn_predict(
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    query_x: ArrayLike | Tensor,
    num_classes: int,
    *,
    k: int = 200,
    temperature: float = 0.1,
    block: int = 1024,
) -> NDArray[np.int64]:
    """Weighted vote of the k training images with the highest cosine similarity.

    A neighbor of similarity s votes for its class with weight `exp(s / temperature)` (Wu et al., *Unsupervised Feature
    Learning via Non-Parametric Instance Discrimination*, CVPR 2018, section 3.4).

    Args:
        train_x: (N, D) features.
        train_y: (N,) class ids in `[0, num_classes)`.
        query_x: (Q, D) features to classify.
        num_classes: Number of classes K.
        k: Neighbors that vote; all of them if there are fewer.
        temperature: A smaller value gives the nearest neighbors more weight.
        block: Queries compared at once; memory grows with `block * N`.

    Returns:
        (Q,) class ids. The smaller id wins a tie.

    Raises:
        InputError: If shapes, labels or options are invalid.
    """
    for name, value in (("k", k), ("temperature", temperature), ("block", block)):
        if not value > 0:
            raise InputError(f"{name}={value} must be above 0")
    train = checked_features(train_x, "train_x")
    query = checked_features(query_x, "query_x", width=train.shape[1]).to(train.device)
    labels = checked_labels(train_y, "train_y", count=len(train), num_classes=num_classes).to(train.device)
    train = F.normalize(train)
    k = min(k, len(train))
    # One buffer for all blocks: allocating memory of this size takes longer than the matrix product.
    columns = -(-len(train) // GROUP) * GROUP
    similarity = torch.full((min(block, len(query)), columns), -torch.inf, device=train.device)
    predictions = []
    for part in torch.split(query, block):
        rows = similarity[: len(part)]
        torch.mm(F.normalize(part), train.T, out=rows[:, : len(train)])
        nearest, neighbors = largest(rows, k)
        # Relative to the nearest: a common factor does not change the vote, and prevents overflow at low temperature.
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = torch.zeros(len(part), num_classes, device=train.device).scatter_add_(1, labels[neighbors], weights)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions).cpu().numpy()
