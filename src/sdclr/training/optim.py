"""Optimisers and the learning rate of every step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.models import group_parameters
from timm.optim.lars import Lars
from torch import nn

from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.method import SelfCompetitor


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its schedule: linear warm-up, then a cosine, set at every step."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    """SGD as in the paper; LARS for batches of thousands; AdamW for transformers."""
    lr: float = 0.5
    """Peak learning rate, as it is (not scaled by the batch)."""
    momentum: float = 0.9
    """Momentum of SGD and LARS; the first beta of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay: of every parameter with SGD, as in the paper; not of biases and normalisation with the others."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up."""
    final_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    joint: float | None = None
    """Share of the run at which a second cosine begins, where the first has come down to joint_lr: the schedule with
    which geometric harmonisation was published (0.5, from 0.5 to 0.3), to be its control, too. By default there is one
    cosine."""
    joint_lr: float = 0.3
    """Learning rate at the joint."""
    layer_decay: float = 1.0
    """Learning rate of a block of the encoder as a share of that of the next deeper one, so that early layers of a
    trained encoder change least; 1 gives all the same. The deepest block and what follows it have the full rate."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise InputError(f"the learning rate must be positive, not {self.lr}")
        if not 0 <= self.final_lr <= self.lr:
            raise InputError(f"the final learning rate must lie between 0 and the peak {self.lr}, not {self.final_lr}")
        if self.joint is not None and not (0 < self.joint < 1 and self.final_lr <= self.joint_lr <= self.lr):
            raise InputError(
                f"two cosines join within the run, at a rate between the final one and the peak, not at a share of "
                f"{self.joint} and a rate of {self.joint_lr}"
            )
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"the layer decay lies in (0, 1], not {self.layer_decay}: 0.75 is usual, 1 is none")
        if self.warmup_epochs < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise InputError("warm-up and weight decay cannot be negative, and momentum lies in [0, 1)")


def create_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters of `module`, each once however often it is shared.

    Raises:
        InputError: If rates are to decay by depth and the encoder's layers have no order.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    scales = {} if config.layer_decay == 1 else layer_scales(module, config.layer_decay)
    if config.name == "sgd":
        decay, momentum = config.weight_decay, config.momentum
        groups = _by_scale([{"params": parameters}], scales)
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=momentum, weight_decay=decay, fused=True)
        if momentum:
            # As torch would at the first step; but if loss scaling skips that one, it takes uninitialised memory.
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    weights: _Group = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay}
    others: _Group = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    if config.name == "adamw":
        groups = _by_scale([weights, others], scales)
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    weights["always_adapt"] = True  # its layer-wise rates are for weights, decayed or not
    return Lars(_by_scale([weights, others], scales), lr=config.lr, momentum=config.momentum)


def layer_scales(module: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """The share of the learning rate that each parameter of an encoder has, by depth: `decay ** blocks behind it`.

    As for fine-tuning transformers (Clark et al., *ELECTRA*, ICLR 2020; Bao et al., *BEiT*, ICLR 2022), with timm's
    order of layers. A pruned twin's own parameters have the share of the network's.

    Args:
        module: What holds the encoder, and perhaps a competitor.
        decay: Of one block.

    Raises:
        InputError: If timm gives the encoder's layers no order.
    """
    scales: dict[nn.Parameter, float] = {}
    by_name: dict[str, float] = {}
    for encoder in (each for each in module.modules() if isinstance(each, Encoder)):
        matcher = getattr(encoder.backbone, "group_matcher", None)
        if matcher is None:
            raise InputError(f"the layers of {encoder.config.name!r} have no order: leave out --optim.layer-decay")
        layers: dict[str, int] = group_parameters(encoder.backbone, matcher(coarse=False), reverse=True)
        deepest = max(layers.values())
        for name, parameter in encoder.backbone.named_parameters():
            by_name[f"encoder.backbone.{name}"] = scales[parameter] = decay ** (deepest - layers[name])
    for competitor in (each for each in module.modules() if isinstance(each, SelfCompetitor)):
        for name, own in competitor.normalization().items():
            if isinstance(own, nn.Parameter) and name in by_name:
                scales[own] = by_name[name]
    return scales


_Group = dict[str, Any]


def _by_scale(groups: list[_Group], scales: Mapping[nn.Parameter, float]) -> list[_Group]:
    """Groups of parameters that share a scale, too; those at the full rate come first."""
    if not scales:
        return groups
    split = []
    for scale in sorted({1.0, *scales.values()}, reverse=True):
        for group in groups:
            chosen = [parameter for parameter in group["params"] if scales.get(parameter, 1.0) == scale]
            if chosen:
                split.append({**group, "params": chosen, "lr_scale": scale})
    return split


def learning_rate(step: int, *, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Learning rate of a step, counted from 0: a pure function, so that a resumed run needs no schedule state."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)
    end, joint = epochs * steps_per_epoch, (config.joint or 0.0) * epochs * steps_per_epoch
    if joint <= warmup:
        return _cosine(config.lr, config.final_lr, (step - warmup) / (end - warmup))
    if step < joint:
        return _cosine(config.lr, config.joint_lr, (step - warmup) / (joint - warmup))
    return _cosine(config.joint_lr, config.final_lr, (step - joint) / (end - joint))


def _cosine(high: float, low: float, progress: float) -> float:
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate, scaled where the group has a scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
