"""Training of a part of the encoder. The rest keeps its initial weights."""

from typing import Literal

from torch import nn

from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.method.competitor import NORMALIZATION

TrainablePart = Literal["all", "last-stage", "norms"]


def freeze_all_but(network: nn.Module, part: TrainablePart) -> int:
    """Freeze the parameters of every encoder in a network, except those of one part.

    Projection heads stay trainable. Call it before an optimizer or a competitor is created.

    Args:
        network: Changed in place.
        part: "all" freezes nothing. "last-stage" trains the deepest stage of the backbone, as timm groups its layers.
            "norms" trains weight and bias of the normalization layers.

    Returns:
        The number of encoder parameters (scalars) that stay trainable.

    Raises:
        InputError: The encoder has no such part.

    Examples:
        >>> from sdclr.encoders import EncoderConfig, create_encoder
        >>> freeze_all_but(create_encoder(EncoderConfig(width=4), 8), "norms")
        600
    """
    trained = 0
    for encoder in (module for module in network.modules() if isinstance(module, Encoder)):
        parameters = dict(encoder.backbone.named_parameters())
        chosen = (
            parameters.keys() if part == "all" else _last_stage(encoder) if part == "last-stage" else _norms(encoder)
        )
        if not chosen:
            raise InputError(f"{encoder.config.name!r} has no normalization layers to train: give --trainable all")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
        trained += sum(parameters[name].numel() for name in chosen)
    return trained


def _last_stage(encoder: Encoder) -> set[str]:
    from timm.models import group_parameters

    matcher = getattr(encoder.backbone, "group_matcher", None)
    if matcher is None:
        raise InputError(f"the layers of {encoder.config.name!r} have no order: give --trainable all, or norms")
    stages: dict[str, int] = group_parameters(encoder.backbone, matcher(coarse=True), reverse=True)
    deepest = max(stages.values())
    return {name for name, stage in stages.items() if stage == deepest}


def _norms(encoder: Encoder) -> set[str]:
    return {
        name
        for prefix, module in encoder.backbone.named_modules()
        if isinstance(module, NORMALIZATION)
        for name, _ in module.named_parameters(prefix, recurse=False)
    }
