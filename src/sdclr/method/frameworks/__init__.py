"""Two-branch frameworks: each takes two branches and two views and returns a loss for every sample."""

from sdclr.method.frameworks.moco import MoCo
from sdclr.method.frameworks.simclr import SimCLR

__all__ = ["MoCo", "SimCLR"]
