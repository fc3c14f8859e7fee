"""The methods: network, stages and losses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.experts import (
    Classifier,
    Experts,
    copies,
    linear_head,
    router_loss,
    router_targets,
)
from sdclr.downstream.losses import (
    balanced_softmax_loss,
    class_temperatures,
    diversity_loss,
    effective_weights,
    ldam_loss,
    ldam_margins,
)
from sdclr.encoders import Encoder, create_encoder

Model = Classifier | Experts
Loss = Callable[[Model, Tensor, Tensor, float], Tensor]
"""Loss of the model for views (N, 3, S, S), labels (N,), and the completed share of the stage's epochs."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the training."""

    name: str
    epochs: int
    loss: Loss
    trained: Callable[[Model], nn.Module] = lambda model: model
    """Gives the trained part; the rest is frozen, including its normalization."""
    begin: Callable[[Model], None] | None = None
    """Called once before the first step."""
    balanced: bool = False
    """Whether all classes are drawn equally often."""


def create_model(config: FinetuneConfig, encoder: Encoder | None, image_size: int, num_classes: int) -> Model:
    """The initial network; its random weights depend on `torch.manual_seed`.

    Args:
        config: The method and, from scratch, the encoder.
        encoder: A pretrained encoder, or None to start from scratch.
        image_size: Side of the views from scratch, in pixels.
        num_classes: K.
    """
    if config.method == "ride":
        number = config.experts
        encoders = (
            [create_encoder(config.encoder, image_size) for _ in range(number)]
            if encoder is None
            else copies(encoder, number)
        )
        return Experts(encoders, num_classes, scale=config.scale if config.expert_loss == "ldam" else None)
    encoder = encoder or create_encoder(config.encoder, image_size)
    scale = config.scale if config.method == "ldam_drw" else None
    # tau-norm has no biases: normalization would not apply to them.
    return Classifier(encoder, linear_head(encoder.num_features, num_classes, scale, bias=config.method != "tau_norm"))


def stages(config: FinetuneConfig, counts: NDArray[np.int64]) -> list[Stage]:
    """The stages of a method; `counts` (K,) are the training images of each class."""
    if config.method == "ldam_drw":
        return [Stage(name="train", epochs=config.epochs, loss=_plain(_ldam(config, counts)))]
    if config.method == "balanced_softmax":
        loss = _plain(lambda logits, labels, _: balanced_softmax_loss(logits, labels, counts))
        return [Stage(name="train", epochs=config.epochs, loss=loss)]
    if config.method == "ride":
        routers = Stage(
            name="router",
            epochs=config.second_epochs,
            loss=_routing(config.router_weight),
            trained=lambda model: cast("Experts", model).routers,
        )
        return [Stage(name="experts", epochs=config.epochs, loss=_experts(config, counts)), routers]
    first = Stage(name="train", epochs=config.epochs, loss=_plain(_cross_entropy))
    if config.method != "crt":
        return [first]
    again = Stage(
        name="classifier",
        epochs=config.second_epochs,
        loss=_plain(_cross_entropy),
        trained=lambda model: cast("Classifier", model).head,
        begin=lambda model: cast("Classifier", model).head.reset_parameters(),
        balanced=True,
    )
    return [first, again]


_Classification = Callable[[Tensor, Tensor, float], Tensor]
"""Loss of logits (N, K), labels (N,), and the completed share of the epochs."""


def _plain(classification: _Classification) -> Loss:
    def loss(model: Model, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        return classification(model(images).float(), labels, progress)

    return loss


def _cross_entropy(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    del progress
    return F.cross_entropy(logits, labels)


def _ldam(config: FinetuneConfig, counts: NDArray[np.int64]) -> _Classification:
    margins = ldam_margins(counts, config.margin)
    weights = effective_weights(counts, config.beta)

    def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        return ldam_loss(logits, labels, margins, config.scale, weights if progress >= config.deferred else None)

    return loss


def _experts(config: FinetuneConfig, counts: NDArray[np.int64]) -> Loss:
    """RIDE's first stage: `Σ_i L_classify(expert i) + λ L_diversity` (Wang et al., ICLR 2021, section 3)."""
    temperatures = class_temperatures(counts, config.temperature, config.temperature_growth)
    classification = _ldam(config, counts) if config.expert_loss == "ldam" else _cross_entropy

    def loss(model: Model, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        logits = model(images).float()
        total = torch.stack([classification(each, labels, progress) for each in logits]).sum()
        return total + config.diversity * diversity_loss(logits, temperatures)

    return loss


def _routing(weight: float) -> Loss:
    """RIDE's second stage, on frozen experts."""

    def loss(model: Model, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        del progress
        experts = cast("Experts", model)
        with torch.no_grad():
            features = experts.features(images)
            logits = experts.logits(features)
        return router_loss(experts.decisions(features, logits).float(), router_targets(logits, labels), weight)

    return loss
