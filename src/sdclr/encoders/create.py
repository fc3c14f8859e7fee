"""Create encoders and networks with random weights."""

import difflib
from itertools import pairwise

import torch
from torch import nn

from sdclr.encoders.cifar_resnet import CIFAR_RESNETS, CifarResNet
from sdclr.encoders.config import EncoderConfig, HeadConfig
from sdclr.encoders.encoder import Encoder, Network
from sdclr.encoders.fitting import check_stem, family_of, fit_stem, timm_options
from sdclr.errors import InputError


def create_encoder(config: EncoderConfig, image_size: int) -> Encoder:
    """Create an encoder with random weights, determined by `torch.manual_seed`.

    Args:
        config: Name and adjustment of the backbone.
        image_size: Side of the square images, in pixels.

    Raises:
        InputError: If timm does not know the name, or the model does not support the stem, patch, width or image size.
    """
    import timm
    from timm.models.convnext import ConvNeXt
    from timm.models.resnet import ResNet

    if config.name in CIFAR_RESNETS:
        return Encoder(_cifar_resnet(config), config, image_size)
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, [*CIFAR_RESNETS, *timm.list_models()], n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` names them"
        raise InputError(f"timm has no model called {config.name!r}{hint}")
    options = timm_options(config, image_size)
    if family_of(config.name) is ResNet:
        # Initialization as in torchvision and the papers; by timm's default each block starts as the identity.
        options["zero_init_last"] = False
    try:
        backbone = timm.create_model(config.name, num_classes=0, pretrained=False, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        remedy = "" if config.width is None else f": the width of {config.width} must be a multiple of its heads"
        raise InputError(
            f"timm cannot make {config.name!r} with these settings ({_one_line(error)}){remedy}"
        ) from error
    if isinstance(backbone, ResNet):
        fit_stem(backbone, config, image_size)
    if isinstance(backbone, ConvNeXt) and "patch_size" in options:
        check_stem(backbone, config.name, options["patch_size"])
    return Encoder(backbone, config, image_size)


def feature_length(config: EncoderConfig, image_size: int) -> int:
    """Number of features of an encoder. The encoder is created for this; torch's random state does not change.

    Raises:
        InputError: As in `create_encoder`.
    """
    with torch.random.fork_rng(devices=[]):
        return create_encoder(config, image_size).num_features


def create_network(encoder: EncoderConfig, head: HeadConfig, image_size: int) -> Network:
    """Encoder and projection head with random weights, determined by `torch.manual_seed`."""
    built = create_encoder(encoder, image_size)
    return Network(built, projection_head(built.num_features, head))


def projection_head(features: int, config: HeadConfig) -> nn.Sequential:
    """Linear layers `features → hidden → … → dim`, normalized after each, with ReLU between (SimCLR, App. B.9)."""
    layers: list[nn.Module] = []
    sizes = [features, *[config.hidden or features] * (config.layers - 1), config.dim]
    for layer, (given, out) in enumerate(pairwise(sizes), start=1):
        last = layer == config.layers
        normalized = config.norm == "batch" and not (last and config.last == "none")
        layers.append(nn.Linear(given, out, bias=not normalized))
        if normalized:
            layers.append(nn.BatchNorm1d(out, affine=not (last and config.last == "plain")))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _cifar_resnet(config: EncoderConfig) -> CifarResNet:
    if config.patch is not None:
        raise InputError(f"{config.name!r} has no patches: leave out --encoder.patch")
    if config.stem == "default":
        raise InputError(f"{config.name!r} has the small stem always: leave out the stem, or take resnet18")
    return CifarResNet(CIFAR_RESNETS[config.name], *([] if config.width is None else [config.width]))


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
