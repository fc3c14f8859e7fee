"""The idea: prune a network, contrast it with its pruned self, refresh. Imports torch and itself only."""

from sdclr.method.competitor import SelfCompetitor
from sdclr.method.frameworks import SimCLR
from sdclr.method.losses import nt_xent
from sdclr.method.objective import Objective
from sdclr.method.pruning import layer_sparsity, magnitude_masks, random_masks

__all__ = ["Objective", "SelfCompetitor", "SimCLR", "layer_sparsity", "magnitude_masks", "nt_xent", "random_masks"]
