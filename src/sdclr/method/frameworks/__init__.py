"""Two-branch frameworks: each takes two branches and two views and returns a loss for every sample."""

from sdclr.method.frameworks.barlow_twins import BarlowTwins, BarlowTwinsConfig
from sdclr.method.frameworks.byol import BYOL, BYOLConfig
from sdclr.method.frameworks.moco import MoCo, MoCoConfig
from sdclr.method.frameworks.moco_v3 import MoCoV3, MoCoV3Config
from sdclr.method.frameworks.simclr import SimCLR
from sdclr.method.frameworks.simsiam import SimSiam, SimSiamConfig
from sdclr.method.frameworks.vicreg import VICReg, VICRegConfig

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
