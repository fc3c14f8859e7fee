"""Optimizers and the learning rate of every step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.method import SelfCompetitor
from sdclr.training.optim_config import OptimConfig


def create_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Create the optimizer for all parameters of `module`. A shared parameter is included once.

    Raises:
        InputError: If the learning rate decays by depth and the encoder's layers have no order.
    """
    from timm.optim.lars import Lars

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    scales = {} if config.layer_decay == 1 else layer_scales(module, config.layer_decay)
    if config.name == "sgd":
        decay, momentum = config.weight_decay, config.momentum
        groups = _by_scale([{"params": parameters}], scales)
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=momentum, weight_decay=decay, fused=True)
        if momentum:
            # torch does this at the first step. If loss scaling skips that step, torch uses uninitialized memory.
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    weights: _Group = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay}
    others: _Group = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    if config.name == "adamw":
        groups = _by_scale([weights, others], scales)
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    weights["always_adapt"] = True  # LARS adapts the rates of weights, with and without weight decay
    return Lars(_by_scale([weights, others], scales), lr=config.lr, momentum=config.momentum)


def layer_scales(module: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Factor on the learning rate of each encoder parameter, by depth: `decay ** number of deeper blocks`.

    As for fine-tuning transformers (Clark et al., *ELECTRA*, ICLR 2020; Bao et al., *BEiT*, ICLR 2022), with timm's
    order of layers. A pruned twin's own parameters have the factors of the network's parameters.

    Args:
        module: Contains the encoder, and perhaps a competitor.
        decay: Factor per block.

    Raises:
        InputError: If timm gives the encoder's layers no order.
    """
    from timm.models import group_parameters

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
    """Split parameter groups by scale. Groups at the full rate come first."""
    if not scales:
        return groups
    split = []
    for scale in sorted({1.0, *scales.values()}, reverse=True):
        for group in groups:
            chosen = [parameter for parameter in group["params"] if scales.get(parameter, 1.0) == scale]
            if chosen:
                split.append({**group, "params": chosen, "lr_scale": scale})
    return split


def learning_rate(step: int, *, steps_per_epoch: int, epochs: float, config: OptimConfig) -> float:
    """Learning rate of a step: a pure function, so that a resumed run needs no schedule state.

    Args:
        step: The step, from 0.
        steps_per_epoch: Steps of a whole epoch.
        epochs: Length of the run; a fraction if the run ends within an epoch.
        config: The schedule.
    """
    warmup = config.warmup(epochs) * steps_per_epoch
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
    """Set the learning rate of every parameter group, times the scale of the group if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state into an optimizer."""
    optimizer.load_state_dict(state)
    for parameter, buffers in optimizer.state.items():
        for name, buffer in buffers.items():
            if torch.is_tensor(buffer) and buffer.shape == parameter.shape:
                # Fused optimizers assume that a weight and its momentum have the same memory layout.
                buffers[name] = torch.empty_like(parameter).copy_(buffer)
