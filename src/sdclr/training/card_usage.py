"""Use of an exported encoder without this package: its architecture, and lines of code for each format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sdclr.encoders import SMALL_SIDE, CifarResNet, Encoder, timm_options


@dataclass(frozen=True)
class Architecture:
    """How to create a backbone without this package."""

    name: str
    """timm's name, without the tag of pretrained weights."""
    arguments: dict[str, Any]
    """Further arguments of `timm.create_model`."""
    small_stem: bool
    """Whether the ResNet starts with a 3x3 convolution of stride 1 without max-pooling."""
    narrow: int | None
    """A ResNet's channels in the first stage; None if they are 64."""

    @property
    def plain(self) -> bool:
        """Whether timm can create it directly."""
        return not self.small_stem and self.narrow is None

    @classmethod
    def of(cls, encoder: Encoder) -> "Architecture":
        """The architecture of an encoder as `create_encoder` made it."""
        import timm
        from timm.models.resnet import ResNet

        config, backbone = encoder.config, encoder.backbone
        arguments = timm_options(config, encoder.image_size) if timm.is_model(config.name) else {}
        if config.width == 64:
            arguments.pop("channels", None)
        small = isinstance(backbone, ResNet) and isinstance(getattr(backbone, "maxpool", None), nn.Identity)
        narrow = config.width if isinstance(backbone, ResNet | CifarResNet) and config.width != 64 else None
        return cls(config.name.partition(".")[0], arguments, small_stem=small, narrow=narrow)


def how_to_use(encoder: Encoder, architecture: Architecture, formats: Sequence[str]) -> str:
    """Code that loads the exported encoder and computes features, for each written format."""
    size, shorter = encoder.image_size, encoder.preprocessing.resized_side
    interpolation = encoder.preprocessing.interpolation
    views = (
        f"Images become RGB, upright, transparency laid over white. Those with both sides up to {SMALL_SIDE} px are "
        f"resized whole to {size} x {size}; of others the shorter side becomes {shorter} px and the center is cut out. "
        "`preprocessing.json` says the same to programs. In the folder of this card:"
    )
    parts = [views, _code(_PREPARE.format(small=SMALL_SIDE, size=size, shorter=shorter, interpolation=interpolation))]
    mean, std = (list(values) for values in (encoder.config.mean, encoder.config.std))
    features = f"""\
mean = torch.tensor({mean}).view(1, 3, 1, 1)
std = torch.tensor({std}).view(1, 3, 1, 1)

with torch.inference_mode():
    images = (prepare(Image.open("image.jpg")) / 255 - mean) / std
    features = model.eval()(images)  # (1, {encoder.num_features})"""
    if "timm" in formats:
        parts += ["### timm", _code(_timm_lines(architecture) + "\n\n" + features)]
        if architecture.plain:
            call = '`timm.create_model("local-dir:FOLDER", pretrained=True)`'
            parts.append(f"Or {call}, with this folder's path for FOLDER; on a hub, `hf-hub:` and its name there.")
    if "torchvision" in formats:
        lines = (
            f"import torchvision\nfrom safetensors.torch import load_file\n\n"
            f"model = torchvision.models.{architecture.name}()\n"
            'model.load_state_dict(load_file("model.safetensors"), strict=False)  # all but fc\n'
            "model.fc = torch.nn.Identity()"
        )
        parts += ["### torchvision", _code(lines + "\n\n" + features)]
    if "onnx" in formats:
        lines = (
            'import onnxruntime\n\nsession = onnxruntime.InferenceSession("encoder.onnx")\n'
            'images = prepare(Image.open("image.jpg")).numpy()  # uint8; normalization is inside\n'
            f'(features,) = session.run(None, {{"images": images}})  # (1, {encoder.num_features})'
        )
        parts += ["### ONNX Runtime", _code(lines)]
    return "\n\n".join(parts)


_PREPARE = """\
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2


def prepare(image):
    image = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    filter_ = v2.InterpolationMode("{interpolation}")
    if max(image.size) <= {small}:
        view = v2.Resize(({size}, {size}), filter_)(image)
    else:
        view = v2.CenterCrop({size})(v2.Resize({shorter}, filter_)(image))
    return v2.functional.pil_to_tensor(view)[None]  # uint8 (1, 3, {size}, {size})"""


def _timm_lines(architecture: Architecture) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in architecture.arguments.items())
    call = f"timm.create_model({architecture.name!r}, num_classes=0{arguments}"
    if architecture.plain:
        return f'import timm\n\nmodel = {call}, checkpoint_path="model.safetensors")'
    lines = ["import timm", "from safetensors.torch import load_file", "from torch import nn"]
    width = architecture.narrow or 64
    if architecture.narrow is not None:
        lines.append("from timm.models.resnet import make_blocks")
    lines += ["", f"model = {call})"]
    kernel, stride = (3, 1) if architecture.small_stem else (7, 2)
    lines.append(f"model.conv1 = nn.Conv2d(3, {width}, {kernel}, stride={stride}, padding={kernel // 2}, bias=False)")
    if architecture.small_stem:
        lines.append("model.maxpool = nn.Identity()")
    if architecture.narrow is not None:
        lines += [
            "block, depth = type(model.layer1[0]), len(model.layer1)",
            f"model.layer1 = make_blocks((block,), ({width},), (depth,), {width})[0][0][1]",
            f"model.bn1 = nn.BatchNorm2d({width})",
        ]
    lines.append('model.load_state_dict(load_file("model.safetensors"))')
    return "\n".join(lines)


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```"
