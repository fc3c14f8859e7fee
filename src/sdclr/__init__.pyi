from .data.inventory import Inventory
from .data.pack import Packed, pack
from .data.sources import open_source
from .downstream.config import FinetuneConfig
from .downstream.finetune import finetune
from .encoders import Encoder, EncoderConfig, HeadConfig, load_encoder, wrap_encoder
from .environment import Environment, describe_environment
from .errors import BadImageError, InputError
from .evaluation.attributes import evaluate_attributes
from .evaluation.balance import balance
from .evaluation.config import AttributeConfig, EvaluateConfig
from .evaluation.embed import embed
from .evaluation.evaluate import evaluate
from .features.inspect import inspect_images
from .longtail.published import paper_split
from .longtail.splits import class_groups, long_tail_counts, long_tail_split
from .marks.apply import apply_marks
from .marks.moves import undo_moves
from .marks.rows import Mark, Marks
from .marks.table import read_marks, write_marks
from .method import (
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
from .mining.config import DiagnoseConfig, MineConfig
from .mining.diagnose import diagnose
from .mining.drop import find_duplicates
from .mining.duplicates import Duplicates
from .mining.explain import explain
from .mining.kind_weights import kind_weights
from .mining.mine import mine
from .mining.page import write_page
from .mining.scores import Scores
from .mining.select import select
from .mining.selection import select_samples
from .mining.similar import neighbors
from .progress import show_progress
from .reporting.page import report
from .settings import read_settings, write_settings
from .training.config import DamageConfig, PretrainConfig
from .training.defaults import default_config
from .training.export import export
from .training.interrupts import Interrupted
from .training.optim_config import OptimConfig
from .training.pretrain import pretrain
from .training.run import Run
from .training.runtime import Runtime
from .version import __version__
from .views.config import ViewConfig

__all__ = [
    "AttributeConfig",
    "BadImageError",
    "DamageConfig",
    "DiagnoseConfig",
    "DropoutCompetitor",
    "Duplicates",
    "Encoder",
    "EncoderConfig",
    "Environment",
    "EvaluateConfig",
    "FinetuneConfig",
    "HeadConfig",
    "InputError",
    "Interrupted",
    "Inventory",
    "Mark",
    "Marks",
    "MineConfig",
    "MoCo",
    "Objective",
    "OptimConfig",
    "Packed",
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
    "class_groups",
    "default_config",
    "describe_environment",
    "diagnose",
    "embed",
    "evaluate",
    "evaluate_attributes",
    "explain",
    "export",
    "find_duplicates",
    "finetune",
    "inspect_images",
    "kind_weights",
    "layer_sparsity",
    "load_encoder",
    "long_tail_counts",
    "long_tail_split",
    "magnitude_masks",
    "mine",
    "neighbors",
    "nt_xent",
    "open_source",
    "pack",
    "paper_split",
    "pretrain",
    "random_masks",
    "read_marks",
    "read_settings",
    "report",
    "select",
    "select_samples",
    "show_progress",
    "undo_moves",
    "wrap_encoder",
    "write_marks",
    "write_page",
    "write_settings",
]
