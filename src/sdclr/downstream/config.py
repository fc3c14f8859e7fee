"""Configuration of fine-tuning, which trains a classifier from an encoder."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sdclr.config import check_numbers
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError

Method: TypeAlias = Literal["ce", "ldam_drw", "balanced_softmax", "crt", "tau_norm", "ride"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A classifier trained on labeled long-tailed images. The defaults are the usual ones for CIFAR-LT.

    Example:
        >>> config = sdclr.FinetuneConfig(method="ldam_drw", epochs=100)
        >>> config.lr
        0.1
    """

    method: Method = "balanced_softmax"
    """Balanced softmax, which works with every network; plain cross-entropy; LDAM with deferred re-weighting; a
    classifier retrained on balanced classes (cRT); classifier weights with normalized norms (tau-norm); or several
    experts with a router (RIDE), which need a ResNet."""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(name="resnet32"))
    """The backbone for training from scratch; with a run, the run's backbone is used."""
    image_size: int | None = None
    """Side of the views in pixels; by default that of the run, or from scratch that of small images and 224 for large
    ones."""
    epochs: int = 200
    """Passes over the images."""
    batch_size: int = 128
    """Images per step; the last incomplete batch of an epoch is dropped."""
    lr: float = 0.1
    """Peak learning rate of SGD, with a cosine schedule."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of every parameter."""
    warmup: float = 0.025
    """Share of the epochs in which the learning rate rises: 5 of 200."""
    deferred: float = 0.8
    """Share of the epochs after which LDAM and RIDE weight classes by their effective number of images: 160 of 200."""
    beta: float = 0.9999
    """beta of the effective number of images, (1 - beta^n) / (1 - beta)."""
    margin: float = 0.5
    """LDAM's largest margin, that of the rarest class."""
    scale: float = 30.0
    """LDAM's scale of the cosines."""
    second_epochs: int = 10
    """Epochs of the second stage: cRT's new classifier, RIDE's router."""
    tau: float | None = None
    """Exponent of tau-norm; by default the best of 0, 0.1, … 1 on held-out images."""
    validation: float = 0.1
    """Share of the training images of each class that is held out to choose tau, if tau is not given."""
    experts: int = 3
    """Experts of RIDE."""
    expert_loss: Literal["ldam", "ce"] = "ldam"
    """Classification loss of each expert."""
    diversity: float = 0.2
    """RIDE's lambda: weight of the diversity between experts."""
    temperature: float = 1.0
    """RIDE's alpha: temperature of the diversity for the most frequent class."""
    temperature_growth: float = 0.05
    """RIDE's gamma: how much the temperature grows with a class's frequency."""
    router_weight: float = 100.0
    """RIDE's omega_on: weight of images that another expert helps, in training the router."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest area of the training crop, as a fraction of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    groups: Literal["thirds", "shots"] = "thirds"
    """Many, Medium and Few: thirds of the classes by size, or more than 100, 20 to 100 and fewer than 20 images."""
    seed: int = 0
    """Seed of weights, order and views."""

    def __post_init__(self) -> None:
        check_numbers(self, image_size=1)
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise InputError(f"crop_scale is ({low}, {high}): give 0 < low <= high <= 1")
        for (low, high), names in _RANGES.items():
            for name in names:
                if not low <= getattr(self, name) <= high:
                    raise InputError(f"{name} is {getattr(self, name)}: give a number between {low:g} and {high:g}")
        if self.experts < 2:
            raise InputError(f"experts is {self.experts}: give 2 or more, or another method")
        if self.method == "tau_norm" and self.tau is None and self.validation == 0:
            raise InputError("tau is to be chosen without validation images: give a tau, or a share of validation")
        if self.tau is not None and self.tau < 0:
            raise InputError(f"tau is {self.tau}: give 0 or more, or nothing to have it chosen")


_MOST = 1e6
_RANGES = {
    (1, _MOST): ("epochs", "batch_size", "second_epochs"),
    (1e-6, _MOST): ("lr", "scale", "temperature", "router_weight"),
    (0, 0.99): ("warmup", "validation"),
    (0, 1): ("momentum", "weight_decay", "deferred", "margin", "diversity", "temperature_growth", "flip"),
    (0, 1 - 1e-9): ("beta",),
    (0, 2**63 - 1): ("seed",),
}
"""Smallest and largest value of each number."""
