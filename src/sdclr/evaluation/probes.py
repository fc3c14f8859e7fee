"""Linear probes, which measure how well a linear layer separates classes by a frozen encoder's features.

The protocol is that of Jiang et al. (ICML 2021), section 4.2: a linear layer is trained by SGD with momentum on *raw*
features (no standardization), with a stepwise learning rate. The epoch with the best validation accuracy is kept. The
best learning rate depends on the features' scale, so a grid of rates is trained at once on identical batches, and the
validation set chooses. `linear_probe` uses cached features, `linear_probe_augmented` images that are randomly cropped
and flipped in every epoch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.errors import InputError
from sdclr.evaluation.config import LINEAR, ProbeConfig
from sdclr.features.extract import checked_features, checked_labels, encode_batch, encode_images, evaluating
from sdclr.progress import stage

DECAY = 0.1
"""Factor on the learning rate at every milestone."""

NEGLIGIBLE = 1e-30
"""Probabilities below this count as 0 in a gradient."""

VALIDATION_BLOCK = 4096
"""Validation images scored at once; limits the memory of logits with many classes and learning rates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearClassifier:
    """A trained linear layer.

    Its hyperparameters were chosen on the validation set, so `validation_accuracy` is slightly optimistic: report
    accuracy on a test set.

    Attributes:
        weight: (K, D) float32, on CPU.
        bias: (K,) float32, on CPU.
        validation_accuracy: In [0, 1].
    """

    weight: Tensor
    bias: Tensor
    validation_accuracy: float

    def predict(self, x: ArrayLike | Tensor) -> NDArray[np.int64]:
        """Class ids (N,) for features (N, D)."""
        features = checked_features(x, "x", width=self.weight.shape[1]).cpu()
        return (features @ self.weight.T + self.bias).argmax(dim=1).numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe(LinearClassifier):
    """A linear layer trained by SGD, with details of the selection.

    Attributes:
        learning_rate: The chosen initial learning rate.
        epoch: Number of training epochs of these weights, from 1.
        curve: (epochs,) validation accuracy of the chosen rate after each epoch; nan after divergence.
        by_learning_rate: Best validation accuracy of every rate of the grid; nan if it diverged in the first epoch.
        edge: The end of the grid with the chosen rate, if no rate inside is as good: a better one may be outside the
            grid.
    """

    learning_rate: float
    epoch: int
    curve: NDArray[np.float64]
    by_learning_rate: dict[float, float]
    edge: Literal["lowest", "highest"] | None


def linear_probe(  # noqa: PLR0917  two labeled sets, as usual in the field
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    val_x: ArrayLike | Tensor,
    val_y: ArrayLike | Tensor,
    num_classes: int,
    config: ProbeConfig = LINEAR,
) -> Probe:
    """Train a linear layer on cached features.

    Features are used raw, as in the paper; scale them before if you want them scaled. The training runs on the device
    of `train_x` (CPU for arrays) and is deterministic by `config.seed` there.

    Args:
        train_x: (N, D) features.
        train_y: (N,) class ids in `[0, num_classes)`.
        val_x: (V, D) features for the choice of learning rate and epoch.
        val_y: (V,) class ids.
        num_classes: Number of classes K.
        config: `LINEAR`, `FEW_SHOT` or other settings.

    Returns:
        The best layer by validation accuracy. The earlier epoch, then the earlier rate of the grid wins a tie.

    Raises:
        InputError: If shapes or labels do not match, features are not finite, or all learning rates diverged.
    """
    train = checked_features(train_x, "train_x")
    validation = checked_features(val_x, "val_x", width=train.shape[1]).to(train.device)
    return _train(
        lambda batch: train.index_select(0, batch),  # copies whole rows, which indexing does not
        checked_labels(train_y, "train_y", count=len(train), num_classes=num_classes).to(train.device),
        val_x=validation,
        val_y=checked_labels(val_y, "val_y", count=len(validation), num_classes=num_classes).to(train.device),
        num_classes=num_classes,
        config=config,
    )


def linear_probe_augmented(  # noqa: PLR0917  as linear_probe
    encoder: nn.Module,
    train_images: Tensor,
    train_y: ArrayLike | Tensor,
    val_images: Tensor,
    val_y: ArrayLike | Tensor,
    num_classes: int,
    config: ProbeConfig = LINEAR,
    *,
    pad: int = 4,
) -> Probe:
    """Train a linear layer on features of images that are randomly cropped and flipped in every epoch.

    The encoder stays frozen, in eval mode. It runs `config.epochs` times over the training images, whatever the number
    of learning rates.

    Args:
        encoder: Maps (N, 3, S, S) float images in [0, 1] to (N, D) features. Its training mode is restored afterwards.
        train_images: (N, 3, S, S) uint8.
        train_y: (N,) class ids in `[0, num_classes)`.
        val_images: (V, 3, S, S) uint8, used without augmentation.
        val_y: (V,) class ids.
        num_classes: Number of classes K.
        config: `LINEAR`, `FEW_SHOT` or other settings.
        pad: Width of the black border for crops, in pixels.

    Returns:
        As `linear_probe`.

    Raises:
        InputError: As `linear_probe`.
    """
    labels = checked_labels(train_y, "train_y", count=len(train_images), num_classes=num_classes)
    val_labels = checked_labels(val_y, "val_y", count=len(val_images), num_classes=num_classes)
    generator = torch.Generator().manual_seed(config.seed)
    with evaluating(encoder) as where:
        resident = train_images.to(where)

        def augmented(batch: Tensor) -> Tensor:
            return encode_batch(encoder, pad_crop_flip(resident[batch], pad, generator), where)

        validation = checked_features(encode_images(encoder, val_images), "the validation images' features")
        return _train(
            augmented,
            labels.to(where),
            val_x=validation,
            val_y=val_labels.to(where),
            num_classes=num_classes,
            config=config,
        )


def pad_crop_flip(images: Tensor, pad: int = 4, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image by up to `pad` pixels, filled with black, and mirror it with probability one half.

    Args:
        images: (N, C, H, W), any dtype and device.
        pad: Largest shift in pixels.
        generator: CPU generator for shifts and flips.

    Returns:
        (N, C, H, W).
    """
    count, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    across = torch.arange(width).expand(count, width)
    rows = (top + torch.arange(height)).to(images.device)
    columns = (left + torch.where(flip, width - 1 - across, across)).to(images.device)
    padded = F.pad(images, (pad, pad, pad, pad))
    sample = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def stratified_holdout(
    labels: ArrayLike, fraction: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out about `fraction` of every class for validation.

    A class with two or more images has at least one image in each set. A single image of a class is not held out.

    Args:
        labels: (N,) class ids.
        fraction: Share to hold out, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        Training and validation positions, each ascending.

    Raises:
        InputError: If the fraction is not between 0 and 1, or no class has two images.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction} must lie between 0 and 1")
    known = np.asarray(labels, dtype=np.int64)
    generator = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(known):
        members = generator.permutation(np.flatnonzero(known == label))
        held.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    validation = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    if not len(validation):
        raise InputError(f"none of {len(known)} labeled images can be held out for validation: label two of a class")
    return np.setdiff1d(np.arange(len(known)), validation), validation


class _Grid:
    """One linear layer per learning rate, all updated together by SGD with momentum.

    The layers' rows are stacked, so that one matrix product computes the whole grid. Layers are independent, so a
    diverged layer does not affect the others. All start from zero, which is as good as any start for this convex
    problem and needs no randomness.
    """

    def __init__(self, width: int, num_classes: int, config: ProbeConfig, device: torch.device) -> None:
        self.shape = (len(config.learning_rates), num_classes)
        self.momentum, self.weight_decay = config.momentum, config.weight_decay
        rows = len(config.learning_rates) * num_classes
        self.rates = torch.tensor(config.learning_rates, device=device).repeat_interleave(num_classes)
        # Weight and bias in one matrix (L * K, D + 1): the bias is the weight of a constant feature 1.
        self.parameters = torch.zeros(rows, width + 1, device=device)
        self.velocity = torch.zeros_like(self.parameters)
        self.minus_one = torch.full((1, 1, 1), -1.0, device=device)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (L, K, B) of features (B, D). With images as last axis a softmax over few classes is fast."""
        return torch.addmm(self.parameters[:, -1:], self.parameters[:, :-1], x.T).view(*self.shape, len(x))

    def step(self, x: Tensor, y: Tensor, scale: float) -> None:
        """One step on the mean cross-entropy of a batch, every learning rate multiplied by `scale`.

        The gradient of the cross-entropy in the logits is `softmax - onehot`, so autograd is not needed.
        """
        # Negligible probabilities are set to 0: denormal numbers, which are frequent at high learning rates, make the
        # product below several times slower.
        error = F.threshold(self.logits(x).softmax(dim=1), NEGLIGIBLE, 0.0, inplace=True)
        error.scatter_add_(1, y.expand(len(error), 1, -1), self.minus_one.expand(len(error), 1, len(y)))
        error = error.view(-1, len(x)).div_(len(x))
        self.velocity.mul_(self.momentum)
        if self.weight_decay:
            self.velocity.add_(self.parameters, alpha=self.weight_decay)
        self.velocity[:, :-1].addmm_(error, x)
        self.velocity[:, -1] += error.sum(dim=1)
        self.parameters.addcmul_(self.velocity, self.rates[:, None], value=-scale)

    def accuracy(self, x: Tensor, y: Tensor) -> NDArray[np.float64]:
        """(L,) share of correctly classified images; nan for a layer with logits that are not finite."""
        right = torch.zeros(self.shape[0], dtype=torch.int64, device=x.device)
        finite = torch.ones(self.shape[0], dtype=torch.bool, device=x.device)
        for part, labels in zip(torch.split(x, VALIDATION_BLOCK), torch.split(y, VALIDATION_BLOCK), strict=True):
            logits = self.logits(part)
            right += (logits.argmax(dim=1) == labels).sum(dim=1)
            finite &= logits.isfinite().all(dim=2).all(dim=1)
        share = right.double() / len(y)
        return torch.where(finite, share, torch.nan).cpu().numpy()

    def layer(self, rate: int) -> tuple[Tensor, Tensor]:
        """Copies of weight (K, D) and bias (K,) of one learning rate, on CPU."""
        rows = self.parameters.view(*self.shape, -1)[rate].cpu()
        return rows[:, :-1].clone(), rows[:, -1].clone()


@torch.no_grad()
def _train(
    features: Callable[[Tensor], Tensor],
    train_y: Tensor,
    *,
    val_x: Tensor,
    val_y: Tensor,
    num_classes: int,
    config: ProbeConfig,
) -> Probe:
    """The common training loop: `features` maps positions (B,) in the training set to features (B, D)."""
    grid = _Grid(val_x.shape[1], num_classes, config, val_x.device)
    order = torch.Generator().manual_seed(config.seed)
    accuracies = np.full((len(config.learning_rates), config.epochs), np.nan)
    best, chosen, epoch_of_best = -1.0, 0, 0
    weight, bias = grid.layer(chosen)
    with stage("training a linear probe", config.epochs, unit="epochs") as update:
        for epoch in range(config.epochs):
            scale = DECAY ** sum(epoch >= milestone for milestone in config.milestones)
            shuffled = torch.randperm(len(train_y), generator=order).to(train_y.device)
            for batch in torch.split(shuffled, config.batch_size):
                grid.step(features(batch), train_y[batch], scale)
            accuracies[:, epoch] = grid.accuracy(val_x, val_y)
            candidate = int(np.nan_to_num(accuracies[:, epoch], nan=-1.0).argmax())
            if accuracies[candidate, epoch] > best:
                best, chosen, epoch_of_best = float(accuracies[candidate, epoch]), candidate, epoch + 1
                weight, bias = grid.layer(chosen)
            update(epoch + 1)
    rates = config.learning_rates
    if epoch_of_best == 0:
        raise InputError(f"every learning rate of {rates} diverged: give smaller learning_rates")
    peaks = np.nan_to_num(accuracies, nan=-1.0).max(axis=1)
    return Probe(
        weight=weight,
        bias=bias,
        learning_rate=rates[chosen],
        epoch=epoch_of_best,
        validation_accuracy=best,
        curve=accuracies[chosen],
        by_learning_rate={
            rate: float(peak) if peak >= 0 else math.nan for rate, peak in zip(rates, peaks, strict=True)
        },
        edge=edge_of_grid(dict(zip(rates, peaks, strict=True)), rates[chosen]),
    )


def edge_of_grid(peaks: Mapping[float, float], winner: float) -> Literal["lowest", "highest"] | None:
    """The end of a grid at which the winner is; None if a value inside is as good, or the grid has one value.

    Args:
        peaks: Best validation accuracy of each value; below 0 if there is none.
        winner: The chosen value.
    """
    inside = [peak for value, peak in peaks.items() if min(peaks) < value < max(peaks)]
    if len(peaks) == 1 or min(peaks) < winner < max(peaks) or max(inside, default=-1.0) >= peaks[winner]:
        return None
    return "lowest" if winner == min(peaks) else "highest"
