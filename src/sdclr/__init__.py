"""Self-damaging contrastive learning for unlabelled, long-tailed images.

The idea: `SelfCompetitor` runs a network as its own pruned twin, and `nt_xent` contrasts the two. The whole way:
`pretrain` images without labels into a `Run`, `load_encoder` it, `evaluate` how evenly it serves the classes.
"""

from sdclr.data.longtail import class_groups, long_tail_counts, long_tail_split
from sdclr.data.sources import open_source
from sdclr.data.views import ViewConfig
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import BadImageError, InputError
from sdclr.evaluation.balance import balance
from sdclr.evaluation.embed import embed
from sdclr.evaluation.evaluate import EvaluateConfig, evaluate
from sdclr.method import Objective, SelfCompetitor, SimCLR, layer_sparsity, magnitude_masks, nt_xent, random_masks
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.interrupts import Interrupted
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run, load_encoder
from sdclr.version import __version__

__all__ = [
    "BadImageError",
    "DamageConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "HeadConfig",
    "InputError",
    "Interrupted",
    "Objective",
    "OptimConfig",
    "PretrainConfig",
    "Run",
    "Runtime",
    "SelfCompetitor",
    "SimCLR",
    "ViewConfig",
    "__version__",
    "balance",
    "class_groups",
    "embed",
    "evaluate",
    "layer_sparsity",
    "load_encoder",
    "long_tail_counts",
    "long_tail_split",
    "magnitude_masks",
    "nt_xent",
    "open_source",
    "pretrain",
    "random_masks",
]
