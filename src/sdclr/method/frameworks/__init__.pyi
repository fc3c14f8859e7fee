from .barlow_twins import BarlowTwins
from .byol import BYOL
from .config import (
    BarlowTwinsConfig,
    BYOLConfig,
    MoCoConfig,
    MoCoV3Config,
    SimSiamConfig,
    VICRegConfig,
)
from .moco import MoCo
from .moco_v3 import MoCoV3
from .simclr import SimCLR
from .simsiam import SimSiam
from .vicreg import VICReg

__all__ = [
    "BYOL",
    "BYOLConfig",
    "BarlowTwins",
    "BarlowTwinsConfig",
    "MoCo",
    "MoCoConfig",
    "MoCoV3",
    "MoCoV3Config",
    "SimCLR",
    "SimSiam",
    "SimSiamConfig",
    "VICReg",
    "VICRegConfig",
]
