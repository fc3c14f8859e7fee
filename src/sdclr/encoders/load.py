"""Load encoders by name, with the same names for all commands and functions."""

from pathlib import Path
from typing import Any

from torch import nn

from sdclr.encoders.config import DEFAULT, GRAMMAR, PREFIX, EncoderConfig
from sdclr.encoders.encoder import Encoder
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.encoders.pretrained import load_pretrained
from sdclr.encoders.saved import load_saved
from sdclr.encoders.weights import PICKLED
from sdclr.errors import InputError
from sdclr.files import looking_at
from sdclr.progress import stage


@stage("loading the encoder")
def load_encoder(spec: str | Path | None = None, *, image_size: int | None = None) -> Encoder:
    """Load an encoder by name.

    Args:
        spec: A finished run's folder; an exported folder; `timm:NAME`, with weights from the Hugging Face hub or its
            cache, pinned by `timm:NAME@REVISION` and checked by `timm:NAME@sha256:DIGEST`; `timm:NAME=FILE`, with
            weights from a `.safetensors` or `.pth` file, checked in the same way; None for the default encoder,
            `timm:tf_efficientnet_lite0.in1k`.
        image_size: Side of the square images in pixels, for pretrained models that take more than one size.

    Returns:
        A module in eval mode on the CPU that maps images `(N, 3, H, W)`, uint8 or float in [0, 1], to features
        `(N, D)`. It normalizes its input itself. Its attributes are `num_features` (D), `image_size`, `preprocessing`
        (resize and crop to that size) and `origin` (source and license of pretrained weights).

    Raises:
        InputError: If there is no such encoder, it is damaged, its weights do not fit, or the hub cannot be reached.

    Example:
        >>> encoder = sdclr.load_encoder()  # the default encoder
        >>> images = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
        >>> encoder(images).shape
        torch.Size([2, 1280])
    """
    import timm

    if spec is None:
        return load_pretrained(DEFAULT, image_size=image_size)
    text = str(spec)
    if text.startswith(PREFIX):
        return load_pretrained(text, image_size=image_size)
    path = Path(spec).expanduser()
    with looking_at(path):
        is_folder, is_file = path.is_dir(), path.is_file()
    if is_folder:
        return load_saved(path)
    if is_file:
        weights = path.suffix.lower() in {".safetensors", *PICKLED}
        remedy = f"name its architecture by {PREFIX}NAME={path}" if weights else f"an encoder is {GRAMMAR}"
        raise InputError(f"{path} is a file, not an encoder: {remedy}")
    if timm.is_model(text):
        raise InputError(f"there is no folder {text}: for timm's pretrained model give {PREFIX}{text}")
    raise InputError(f"there is no encoder {text!r}: an encoder is {GRAMMAR}")


def wrap_encoder(
    module: nn.Module,
    *,
    image_size: int,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    crop_pct: float = 224 / 256,
    interpolation: str = "bicubic",
) -> Encoder:
    """Create an encoder from any network.

    Args:
        module: Maps normalized images `(N, 3, image_size, image_size)` to features `(N, D)`.
        image_size: Side of the square input images, in pixels.
        mean: Mean of the red, green and blue values in [0, 1], which the encoder subtracts; by default 0.
        std: Standard deviation of these values, by which the encoder divides; by default 1.
        crop_pct: Share of the resized image's shorter side that the center crop keeps.
        interpolation: Filter of the resize: bicubic, bilinear or lanczos.

    Returns:
        The encoder in eval mode.

    Raises:
        InputError: If the module does not give one vector per image, or a setting is invalid.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> encoder = sdclr.wrap_encoder(network, image_size=32)
        >>> len(sdclr.mine("images", encoder=encoder, out="wrapped").order())
        60
    """
    given: Any = interpolation  # Preprocessing checks it
    preprocessing = Preprocessing(image_size=image_size, crop_pct=crop_pct, interpolation=given)
    config = EncoderConfig(name=type(module).__name__, mean=mean, std=std)
    return Encoder(module, config, image_size, preprocessing=preprocessing).eval()


def as_encoder(module: nn.Module) -> Encoder:
    """The encoder of a module with known preprocessing: an `Encoder`, or a timm model.

    Raises:
        InputError: If the preprocessing is unknown; `wrap_encoder` takes it as arguments.
    """
    if isinstance(module, Encoder):
        return module
    described = getattr(module, "pretrained_cfg", None)
    if not isinstance(described, dict) or "input_size" not in described:
        raise InputError(
            f"{type(module).__name__} does not say how it takes images: use sdclr.wrap_encoder(module, "
            "image_size=224, mean=…, std=…)"
        )
    name = str(described.get("architecture") or type(module).__name__)
    preprocessing = Preprocessing.from_timm(described, name)
    config = EncoderConfig(name=name, stem="default", mean=tuple(described["mean"]), std=tuple(described["std"]))
    pooled = module if getattr(module, "num_classes", 0) == 0 else _BeforeClassifier(module)
    return Encoder(pooled, config, preprocessing.image_size, preprocessing=preprocessing).eval()


class _BeforeClassifier(nn.Module):
    """A timm model up to the input of its classifier; the model itself is not changed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Any) -> Any:
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)
