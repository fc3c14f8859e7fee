"""The encoder with its input normalization, and the trained network."""

import torch
from torch import Tensor, nn

from sdclr.encoders.config import EncoderConfig
from sdclr.encoders.narrow import replace_narrow_convolutions
from sdclr.encoders.origin import Origin
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.errors import InputError


class Encoder(nn.Module):
    """A backbone with its input normalization, which maps images to features.

    Args:
        backbone: Maps normalized images `(N, 3, H, W)` to features `(N, D)`.
        config: Settings of the backbone.
        image_size: Side of the square input images, in pixels.
        preprocessing: Preprocessing of images; by default resize and center crop as on ImageNet.
        origin: Origin of pretrained weights; None for random initial weights.

    Example:
        >>> encoder = sdclr.load_encoder("runs/digits")
        >>> encoder.image_size, encoder.num_features
        (8, 32)
        >>> encoder(torch.zeros(5, 3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([5, 32])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        config: EncoderConfig,
        image_size: int,
        *,
        preprocessing: Preprocessing | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        replace_narrow_convolutions(backbone)
        self.backbone = backbone
        self.config = config
        self.preprocessing = preprocessing or Preprocessing(image_size=image_size)
        self.origin = origin
        self.num_features = _features_of(backbone, config.name, image_size)
        # Not in the state dict: they are part of the configuration.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @property
    def image_size(self) -> int:
        """Side of the square input images, in pixels."""
        return self.preprocessing.image_size

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, D)` of images `(N, 3, H, W)`, float in [0, 1] or uint8."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


class Network(nn.Module):
    """The trained network: an encoder and its projection head."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Projections `(N, dim)` of images `(N, 3, H, W)`."""
        projections: Tensor = self.head(self.encoder(images))
        return projections


@torch.no_grad()
def _features_of(backbone: nn.Module, name: str, image_size: int) -> int:
    """Length of the feature vector, from a forward pass, because models use different names for it."""
    mode = backbone.training
    try:
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{name!r} cannot take images of {image_size} px ({str(error).partition(chr(10))[0]}): give views "
            "of another size, a smaller patch where it has one, or another encoder"
        ) from error
    backbone.train(mode)
    if features.ndim != 2:
        raise InputError(f"{name!r} gives features of shape {tuple(features.shape)}, not one vector an image")
    return int(features.shape[1])
