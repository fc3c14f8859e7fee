"""The idea: prune a network, contrast it with its pruned self, refresh. Imports torch and itself only."""

from sdclr.method.competitor import SelfCompetitor
from sdclr.method.damage import AdaptiveRatio, scheduled_ratio
from sdclr.method.dropout import DropoutCompetitor
from sdclr.method.frameworks import BYOL, BarlowTwins, MoCo, MoCoV3, SimCLR, SimSiam, VICReg
from sdclr.method.losses import focal_loss, nt_xent
from sdclr.method.momentum import MomentumNetwork
from sdclr.method.objective import Objective
from sdclr.method.pruning import layer_sparsity, magnitude_masks, random_masks
from sdclr.method.several import SelfCompetitors

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
    "SelfCompetitors",
    "SimCLR",
    "SimSiam",
    "VICReg",
    "focal_loss",
    "layer_sparsity",
    "magnitude_masks",
    "nt_xent",
    "random_masks",
    "scheduled_ratio",
]
