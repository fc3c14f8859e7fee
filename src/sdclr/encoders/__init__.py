"""Encoders: their settings, how they are built, loaded, wrapped and saved."""

from sdclr.encoders.cifar_resnet import CIFAR_RESNETS, CifarResNet
from sdclr.encoders.config import IMAGENET_MEAN, IMAGENET_STD, EncoderConfig, HeadConfig
from sdclr.encoders.create import create_encoder, create_network, projection_head
from sdclr.encoders.encoder import Encoder, Network
from sdclr.encoders.fitting import SMALL_IMAGE, timm_options
from sdclr.encoders.load import as_encoder, load_encoder, wrap_encoder
from sdclr.encoders.origin import Origin
from sdclr.encoders.preprocessing import SMALL_SIDE, Preprocessing
from sdclr.encoders.pretrained import DEFAULT, STRONGER, changes_size, load_pretrained, packaged_weights
from sdclr.encoders.saved import describe_encoder, save_encoder

__all__ = [
    "CIFAR_RESNETS",
    "DEFAULT",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SMALL_IMAGE",
    "SMALL_SIDE",
    "STRONGER",
    "CifarResNet",
    "Encoder",
    "EncoderConfig",
    "HeadConfig",
    "Network",
    "Origin",
    "Preprocessing",
    "as_encoder",
    "changes_size",
    "create_encoder",
    "create_network",
    "describe_encoder",
    "load_encoder",
    "load_pretrained",
    "packaged_weights",
    "projection_head",
    "save_encoder",
    "timm_options",
    "wrap_encoder",
]
