from .cifar_resnet import CIFAR_RESNETS, CifarResNet
from .config import DEFAULT, IMAGENET_MEAN, IMAGENET_STD, SMALL_IMAGE, STRONGER, EncoderConfig, HeadConfig
from .create import create_encoder, create_network, feature_length, projection_head
from .encoder import Encoder, Network
from .fitting import timm_options
from .load import as_encoder, load_encoder, wrap_encoder
from .origin import Origin
from .preprocessing import SMALL_SIDE, Preprocessing
from .pretrained import changes_size, load_pretrained, packaged_weights
from .saved import save_encoder, write_description

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
    "feature_length",
    "load_encoder",
    "load_pretrained",
    "packaged_weights",
    "projection_head",
    "save_encoder",
    "timm_options",
    "wrap_encoder",
    "write_description",
]
