"""Find the rare images of unlabeled, long-tailed collections, and train encoders that serve rare classes better.

`mine` ranks the images of a folder by rarity with a pretrained encoder, `diagnose` describes the collection, and
`choose_to_label` picks what to label next. `pretrain` trains an encoder on the images by self-damaging contrastive
learning, `evaluate` measures how evenly it serves the classes, and `export` writes it for other tools. `load_encoder`
loads any encoder: a run, an export, or a pretrained model of timm.

The method alone: `SelfCompetitor` runs a network as its own pruned twin, and `nt_xent` contrasts the two.
"""

from sdclr.data.longtail import class_groups, long_tail_counts, long_tail_split
from sdclr.data.published import paper_split
from sdclr.data.sources import open_source
from sdclr.data.views import ViewConfig
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.finetune import finetune
from sdclr.encoders import Encoder, EncoderConfig, HeadConfig, load_encoder, wrap_encoder
from sdclr.errors import BadImageError, InputError
from sdclr.evaluation.attributes import AttributeConfig, evaluate_attributes
from sdclr.evaluation.balance import balance
from sdclr.evaluation.embed import embed
from sdclr.evaluation.evaluate import EvaluateConfig, evaluate
from sdclr.evaluation.neighbors import neighbors
from sdclr.marks.apply import apply_marks
from sdclr.marks.moves import undo_moves
from sdclr.marks.rows import Mark, Marks
from sdclr.marks.table import read_marks, write_marks
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
from sdclr.mining.diagnose import DiagnoseConfig, diagnose
from sdclr.mining.drop import find_duplicates
from sdclr.mining.duplicates import Duplicates
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
from sdclr.training.run import Run
from sdclr.version import __version__

__all__ = [
    "AttributeConfig",
    "BadImageError",
    "DamageConfig",
    "DiagnoseConfig",
    "DropoutCompetitor",
    "Duplicates",
    "Encoder",
    "EncoderConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "HeadConfig",
    "InputError",
    "Interrupted",
    "Mark",
    "Marks",
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
    "apply_marks",
    "balance",
    "choose_to_label",
    "class_groups",
    "diagnose",
    "embed",
    "evaluate",
    "evaluate_attributes",
    "export",
    "find_duplicates",
    "finetune",
    "for_images",
    "layer_sparsity",
    "load_encoder",
    "long_tail_counts",
    "long_tail_split",
    "magnitude_masks",
    "mine",
    "neighbors",
    "nt_xent",
    "open_source",
    "paper_split",
    "pretrain",
    "random_masks",
    "read_marks",
    "report",
    "select_to_label",
    "undo_moves",
    "why",
    "wrap_encoder",
    "write_marks",
    "write_page",
]
