"""Adjust timm's architectures to small images and small machines: stems, patches and widths."""

from typing import Any

from torch import nn

from sdclr.encoders.config import SMALL_IMAGE, EncoderConfig
from sdclr.errors import InputError

SMALL_PATCH = 4  # px; an image of 32 px then has 8x8 patches in a vision transformer


def timm_options(config: EncoderConfig, image_size: int) -> dict[str, Any]:
    """Options of `timm.create_model` for a backbone, as plain JSON.

    A ResNet's stem is not included, because timm has no option for small images.

    Args:
        config: Name and adjustment of the backbone, which timm must know.
        image_size: Side of the square images, in pixels.

    Raises:
        InputError: If the architecture does not support the stem, patch or width, or patches do not fill the image.
    """
    from timm.models.convnext import ConvNeXt
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    family, options = family_of(config.name), {}
    if family is None and (config.stem == "small" or config.patch is not None or config.width is not None):
        raise InputError(
            "stem, patch and width are for ResNets, vision transformers (vit_…) and ConvNeXts: leave them out for "
            f"{config.name!r}"
        )
    if family is ResNet and config.patch is not None:
        raise InputError(f"{config.name!r} has no patches: leave out --encoder.patch, or give --encoder.stem")
    if family is not ResNet and takes_image_size(config.name):
        options["img_size"] = image_size
    if config.width is not None:
        options |= _narrowed(family, config.width)
    if family in (VisionTransformer, ConvNeXt) and (config.patch is not None or _is_small(config, image_size)):
        small = max(1, min(SMALL_PATCH, image_size // 8)) if family is VisionTransformer else 1
        options["patch_size"] = _fitting(config.patch or small, image_size)
    return options


def family_of(name: str) -> type[nn.Module] | None:
    """The architecture of a timm model, if it can be adjusted to small images; otherwise None."""
    import timm
    from timm.models.convnext import ConvNeXt
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    module = timm.model_entrypoint(name).__module__
    return next((family for family in (ResNet, VisionTransformer, ConvNeXt) if family.__module__ == module), None)


def _is_small(config: EncoderConfig, image_size: int) -> bool:
    return config.stem == "small" or (config.stem == "auto" and image_size < SMALL_IMAGE)


def _narrowed(family: type[nn.Module] | None, width: int) -> dict[str, Any]:
    """A width as timm's option. Every stage of a ResNet or ConvNeXt has twice as many channels as the previous one."""
    from timm.models.convnext import ConvNeXt
    from timm.models.vision_transformer import VisionTransformer

    stages = [width * 2**stage for stage in range(4)]
    if family is VisionTransformer:
        return {"embed_dim": width}
    return {"dims": stages} if family is ConvNeXt else {"channels": stages}


def _fitting(patch: int, image_size: int) -> int:
    """The patch side, after a check that patches fill the image."""
    if image_size % patch:
        sides = [side for side in range(1, image_size // 2 + 1) if not image_size % side]
        raise InputError(
            f"patches of {patch} px do not fill images of {image_size} px: give an --encoder.patch of "
            f"{', '.join(map(str, sides))}, or views of another size"
        )
    return patch


def takes_image_size(name: str) -> bool:
    """Whether the architecture is built for one input size (vision transformers), so that timm needs the size."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def fit_stem(resnet: Any, config: EncoderConfig, image_size: int) -> None:
    """Replace a ResNet's stem by one for small images if needed, and stem and first stage by ones of `width`."""
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
    """Rebuild the first stage and the stem's normalization: timm builds them for a stem of 64 channels."""
    from timm.models.resnet import make_blocks

    block, depth = type(resnet.layer1[0]), len(resnet.layer1)
    plain, stage = (make_blocks((block,), (width,), (depth,), channels)[0][0][1] for channels in (64, width))
    if repr(resnet.layer1) != repr(plain):  # grouped convolutions, attention or other layers would be lost
        raise InputError(f"width is for plain ResNets (resnet18, resnet50, …): leave it out for {name!r}")
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    resnet.layer1 = stage
    resnet.bn1 = nn.BatchNorm2d(width)


def check_stem(convnext: Any, name: str, patch: int) -> None:
    """Check that timm used the patch: it ignores it for ConvNeXts with a stem of overlapping convolutions."""
    if convnext.stem[0].kernel_size != (patch, patch):
        raise InputError(f"the stem of {name!r} has no patches: give --encoder.stem default, or take convnext_atto")
