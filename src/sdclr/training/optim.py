"""Optimisers and the learning rate of every step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from timm.optim.lars import Lars
from torch import nn

from sdclr.errors import InputError


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
        if self.warmup_epochs < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise InputError("warm-up and weight decay cannot be negative, and momentum lies in [0, 1)")


def create_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser over all parameters of `module`, each once however often it is shared."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.name == "sgd":
        decay, momentum = config.weight_decay, config.momentum
        optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=momentum, weight_decay=decay, fused=True)
        if momentum:
            # As torch would at the first step; but if loss scaling skips that one, it takes uninitialised memory.
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    groups[0]["always_adapt"] = True  # its layer-wise rates are for weights, decayed or not
    return Lars(groups, lr=config.lr, momentum=config.momentum)


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
    """Give every parameter group the same learning rate."""
    groups: Iterable[dict[str, object]] = optimizer.param_groups
    for group in groups:
        group["lr"] = lr
