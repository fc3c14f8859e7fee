"""Self-damaging contrastive learning for unlabelled, long-tailed images.

The idea: `SelfCompetitor` runs a network as its own pruned twin, and `nt_xent` contrasts the two. The whole way:
`pretrain` images without labels into a `Run`, `load_encoder` it, `evaluate` how evenly it serves the classes; `mine`
the rare images, `diagnose` the collection, `choose_to_label` what comes next, `export` the encoder to other tools.
"""

from sdclr.data.longtail import class_groups, long_tail_counts, long_tail_split
from sdclr.data.published import paper_split
from sdclr.data.sources import open_source
from sdclr.data.views import ViewConfig
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.finetune import finetune
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import BadImageError, InputError
from sdclr.evaluation.attributes import AttributeConfig, evaluate_attributes
from sdclr.evaluation.balance import balance
from sdclr.evaluation.diagnose import DiagnoseConfig, diagnose
from sdclr.evaluation.embed import embed
from sdclr.evaluation.evaluate import EvaluateConfig, evaluate
from sdclr.evaluation.neighbours import neighbours
from sdclr.method import (
    DropoutCompetitor,
    MoCo,
    Objective,
    SelfCompetitor,
    SimCLR,
    layer_sparsity,
    magnitude_masks,
    nt_xent,
    random_masks,
)
from sdclr.mining.choose import choose_to_label
from sdclr.mining.mine import MineConfig, mine
from sdclr.mining.page import write_page
from sdclr.mining.scores import Scores
from sdclr.mining.selection import select_to_label
from sdclr.mining.why import why
from sdclr.reporting.page import report
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.defaults import for_images
from sdclr.training.export import export
from sdclr.training.interrupts import Interrupted
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.training.run import Run, load_encoder
from sdclr.version import __version__

__all__ = [
    "AttributeConfig",
    "BadImageError",
    "DamageConfig",
    "DiagnoseConfig",
    "DropoutCompetitor",
    "EncoderConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "HeadConfig",
    "InputError",
    "Interrupted",
    "MineConfig",
    "MoCo",
    "Objective",
    "OptimConfig",
    "PretrainConfig",
    "Run",
    "Runtime",
    "Scores",
    "SelfCompetitor",
    "SimCLR",
    "ViewConfig",
    "__version__",
    "balance",
    "choose_to_label",
    "class_groups",
    "diagnose",
    "embed",
    "evaluate",
    "evaluate_attributes",
    "export",
    "finetune",
    "for_images",
    "layer_sparsity",
    "load_encoder",
    "long_tail_counts",
    "long_tail_split",
    "magnitude_masks",
    "mine",
    "neighbours",
    "nt_xent",
    "open_source",
    "paper_split",
    "pretrain",
    "random_masks",
    "report",
    "select_to_label",
    "why",
    "write_page",
]
