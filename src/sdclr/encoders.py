"""Encoders by timm name, made fit for small images and small machines, and projection heads."""

import difflib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import timm
import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet, make_blocks
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from sdclr.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALL_IMAGE = 64  # px; below it a stem made for photographs would throw most of the picture away
SMALL_PATCH = 4  # px; a vision transformer then sees 32 px as 8x8 patches

CIFAR_RESNETS = {"resnet20": 3, "resnet32": 5, "resnet56": 9}
"""The ResNets for CIFAR, which timm does not have, and how many blocks each of their three stages holds."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which backbone, and how it is fitted to the images."""

    name: str = "resnet18"
    """Any timm model by name, or a ResNet for CIFAR: resnet20, resnet32, resnet56."""
    stem: Literal["auto", "small", "default"] = "auto"
    """What meets the image first. Small is one 3x3 convolution of stride 1 without max-pooling for a ResNet, patches of
    4 px for a vision transformer (of an eighth of the image's side under 32 px), of 1 px for a ConvNeXt; auto takes it
    under 64 px."""
    patch: int | None = None
    """Side of the patches of a vision transformer or of a ConvNeXt's stem, in pixels; by default the stem decides."""
    width: int | None = None
    """Channels of a ResNet's first stage, 64 by design (16 in those for CIFAR), or of a ConvNeXt's; length of a vision
    transformer's tokens, a multiple of its heads. 16 makes a quarter-width ResNet for CPUs."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the red, green and blue values in [0, 1], subtracted inside the encoder."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the same, divided by inside the encoder."""

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise InputError(f"encoder width must be a positive number of channels, not {self.width}")
        if self.patch is not None and self.patch < 1:
            raise InputError(f"patches have a side of 1 or more pixels, not {self.patch}")
        if self.patch is not None and self.stem != "auto":
            raise InputError(f"a patch of {self.patch} px is a stem already: leave out --encoder.stem {self.stem}")
        if min(self.std) <= 0:
            raise InputError(f"the standard deviations of the input must be positive, not {self.std}")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head between encoder and loss."""

    layers: Literal[2, 3] = 2
    """Linear layers, with batch normalisation after each and ReLU between."""
    dim: int = 128
    """Length of the projected vectors."""
    hidden: int | None = None
    """Length between the layers; by default that of the features."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation after each linear layer."""
    last: Literal["norm", "plain", "none"] = "norm"
    """Normalisation of the output: with weight and bias, without them (SimSiam), or none (BYOL and others)."""

    def __post_init__(self) -> None:
        if self.dim < 1 or (self.hidden is not None and self.hidden < 1):
            raise InputError(f"the head's dimensions must be positive, not {self.hidden} and {self.dim}")


class Encoder(nn.Module):
    """A backbone with its input normalisation: images in, features out.

    Args:
        backbone: Maps normalised images `(N, 3, H, W)` to features `(N, D)`.
        config: What it was made from.
        image_size: Side of the square images it is made for, in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.image_size = image_size
        self.num_features = _features_of(backbone, config.name, image_size)
        # Not in the state dict: they are configuration, and travel as such.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, D)` of images `(N, 3, H, W)`, float in [0, 1] or uint8."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


class CifarResNet(nn.Module):
    """A ResNet for images of 32 px: three stages on a 3x3 stem, with shortcuts that have no weights.

    He et al., *Deep Residual Learning for Image Recognition* (CVPR 2016), section 4.2 (shortcuts of type A).
    Modules and weights are named as in timm's ResNets.

    Args:
        blocks: Blocks of two convolutions in each stage.
        width: Channels of the first stage; the second has twice, the third four times as many.
    """

    def __init__(self, blocks: int, width: int = 16) -> None:
        super().__init__()
        self.num_features = 4 * width
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        channels = (width, 2 * width, 4 * width)
        stages, _ = make_blocks((BasicBlock,) * 3, channels, (blocks,) * 3, width)
        for (name, stage), out in zip(stages, channels, strict=True):
            first: Any = next(stage.children())
            if first.downsample is not None:
                first.downsample = _PaddedShortcut(out)
            self.add_module(name, stage)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, 4 width)` of normalised images `(N, 3, H, W)`."""
        x = images
        for module in self.children():
            x = module(x)
        return x


class _PaddedShortcut(nn.Module):
    """Every second pixel, with channels of zeros added: into a stage of half the size without a weight (type A)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        missing = self.channels - x.shape[1]
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))


class Network(nn.Module):
    """What is trained: an encoder and its projection head."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Projections `(N, dim)` of images `(N, 3, H, W)`."""
        projections: Tensor = self.head(self.encoder(images))
        return projections


def create_encoder(config: EncoderConfig, image_size: int) -> Encoder:
    """Build an encoder with random weights; `torch.manual_seed` decides which.

    Args:
        config: The backbone and how it is fitted.
        image_size: Side of the square images that it will see, in pixels.

    Raises:
        InputError: If timm does not know the name, stem, patch or width are asked of what has none, or the model cannot
            take images of this size.
    """
    if config.name in CIFAR_RESNETS:
        return Encoder(_cifar_resnet(config), config, image_size)
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, [*CIFAR_RESNETS, *timm.list_models()], n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` names them"
        raise InputError(f"timm has no model called {config.name!r}{hint}")
    options = timm_options(config, image_size)
    if _family(config.name) is ResNet:
        # As torchvision and the papers initialise it; timm's own default starts each block as the identity.
        options["zero_init_last"] = False
    try:
        backbone = timm.create_model(config.name, num_classes=0, pretrained=False, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        mend = "" if config.width is None else f": the width of {config.width} must be a multiple of its heads"
        raise InputError(f"timm cannot make {config.name!r} with these settings ({_one_line(error)}){mend}") from error
    if isinstance(backbone, ResNet):
        _fit_stem(backbone, config, image_size)
    if isinstance(backbone, ConvNeXt) and "patch_size" in options:
        _check_stem(backbone, config.name, options["patch_size"])
    return Encoder(backbone, config, image_size)


def timm_options(config: EncoderConfig, image_size: int) -> dict[str, Any]:
    """What `timm.create_model` is told of a backbone besides its name, as plain JSON.

    A ResNet's stem is not among it: timm has no option for that of small images.

    Args:
        config: The backbone, which timm knows, and how it is fitted.
        image_size: Side of the square images that it will see, in pixels.

    Raises:
        InputError: If stem, patch or width are asked of what has none, or the patches do not fill the image.
    """
    family, options = _family(config.name), {}
    if family is None and (config.stem == "small" or config.patch is not None or config.width is not None):
        raise InputError(
            "stem, patch and width are for ResNets, vision transformers (vit_…) and ConvNeXts: leave them out for "
            f"{config.name!r}"
        )
    if family is ResNet and config.patch is not None:
        raise InputError(f"{config.name!r} has no patches: leave out --encoder.patch, or give --encoder.stem")
    if family is not ResNet and _takes_image_size(config.name):
        options["img_size"] = image_size
    if config.width is not None:
        options |= _narrowed(family, config.width)
    if family in (VisionTransformer, ConvNeXt) and (config.patch is not None or _is_small(config, image_size)):
        small = max(1, min(SMALL_PATCH, image_size // 8)) if family is VisionTransformer else 1
        options["patch_size"] = _fitting(config.patch or small, image_size)
    return options


def create_network(encoder: EncoderConfig, head: HeadConfig, image_size: int) -> Network:
    """Encoder and projection head with random weights; `torch.manual_seed` decides which."""
    built = create_encoder(encoder, image_size)
    return Network(built, projection_head(built.num_features, head))


def projection_head(features: int, config: HeadConfig) -> nn.Sequential:
    """Linear layers `features → hidden → … → dim`, normalised after each, with ReLU between (SimCLR, App. B.9)."""
    layers: list[nn.Module] = []
    sizes = [features, *[config.hidden or features] * (config.layers - 1), config.dim]
    for layer, (given, out) in enumerate(pairwise(sizes), start=1):
        last = layer == config.layers
        normalised = config.norm == "batch" and not (last and config.last == "none")
        layers.append(nn.Linear(given, out, bias=not normalised))
        if normalised:
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


def _family(name: str) -> type[nn.Module] | None:
    """The architecture behind a name of timm's, if it is one that can be fitted to small images."""
    module = timm.model_entrypoint(name).__module__
    return next((family for family in (ResNet, VisionTransformer, ConvNeXt) if family.__module__ == module), None)


def _is_small(config: EncoderConfig, image_size: int) -> bool:
    return config.stem == "small" or (config.stem == "auto" and image_size < SMALL_IMAGE)


def _narrowed(family: type[nn.Module] | None, width: int) -> dict[str, Any]:
    """A width as timm's option. Every stage of a ResNet or a ConvNeXt has twice the channels of the one before."""
    stages = [width * 2**stage for stage in range(4)]
    if family is VisionTransformer:
        return {"embed_dim": width}
    return {"dims": stages} if family is ConvNeXt else {"channels": stages}


def _fitting(patch: int, image_size: int) -> int:
    """The patch, made sure that it leaves no edge of the image out."""
    if image_size % patch:
        sides = [side for side in range(1, image_size // 2 + 1) if not image_size % side]
        raise InputError(
            f"patches of {patch} px do not fill images of {image_size} px: give an --encoder.patch of "
            f"{', '.join(map(str, sides))}, or views of another size"
        )
    return patch


def _takes_image_size(name: str) -> bool:
    """Whether the architecture is built for one input size (vision transformers), so that it must be told ours."""
    config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _fit_stem(resnet: Any, config: EncoderConfig, image_size: int) -> None:
    """Give a ResNet the stem for small images, and a stem and first stage as narrow as its `width` says."""
    small = _is_small(config, image_size)
    if not small and config.width is None:
        return
    if not isinstance(resnet.conv1, nn.Conv2d):
        raise InputError(
            f"stem and width are for ResNets with one stem convolution: leave them out for {config.name!r}"
        )
    if config.width is not None:
        _narrow_first_stage(resnet, config.name, config.width)
    width = config.width or resnet.conv1.out_channels
    kernel, stride = (3, 1) if small else (7, 2)
    resnet.conv1 = nn.Conv2d(3, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        resnet.maxpool = nn.Identity()


def _narrow_first_stage(resnet: Any, name: str, width: int) -> None:
    """Build the first stage and the stem's normalisation anew: timm's have the input of a stem of 64 channels."""
    block, depth = type(resnet.layer1[0]), len(resnet.layer1)
    plain, stage = (make_blocks((block,), (width,), (depth,), channels)[0][0][1] for channels in (64, width))
    if repr(resnet.layer1) != repr(plain):  # grouped convolutions, attention, another normalisation: lost if rebuilt
        raise InputError(f"width is for plain ResNets (resnet18, resnet50, …): leave it out for {name!r}")
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    resnet.layer1 = stage
    resnet.bn1 = nn.BatchNorm2d(width)


def _check_stem(convnext: Any, name: str, patch: int) -> None:
    """Some ConvNeXts have a stem of overlapping convolutions, and timm then passes over the patch."""
    if convnext.stem[0].kernel_size != (patch, patch):
        raise InputError(f"the stem of {name!r} has no patches: give --encoder.stem default, or take convnext_atto")


@torch.no_grad()
def _features_of(backbone: nn.Module, name: str, image_size: int) -> int:
    """Length of the feature vector, by running one image: models disagree on what they call it."""
    mode = backbone.training
    try:
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{name!r} cannot take images of {image_size} px ({_one_line(error)}): give views of another size, a "
            "smaller patch where it has one, or another encoder"
        ) from error
    backbone.train(mode)
    if features.ndim != 2:
        raise InputError(f"{name!r} gives features of shape {tuple(features.shape)}, not one vector an image")
    return int(features.shape[1])


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
