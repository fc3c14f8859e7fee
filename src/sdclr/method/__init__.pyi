from .competitor import SelfCompetitor
from .damage import AdaptiveRatio
from .dropout import DropoutCompetitor
from .frameworks import BYOL, BarlowTwins, MoCo, MoCoV3, SimCLR, SimSiam, VICReg
from .losses import focal_loss, nt_xent
from .momentum import MomentumNetwork
from .objective import Objective
from .pruning import layer_sparsity, magnitude_masks, random_masks

__all__ = [
    "BYOL",
    "AdaptiveRatio",
    "BarlowTwins",
    "DropoutCompetitor",
    "MoCo",
    "MoCoV3",
    "MomentumNetwork",
    "Objective",
    "SelfCompetitor",
    "SimCLR",
    "SimSiam",
    "VICReg",
    "focal_loss",
    "layer_sparsity",
    "magnitude_masks",
    "nt_xent",
    "random_masks",
]
