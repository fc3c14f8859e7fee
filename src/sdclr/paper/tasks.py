"""Jobs for a table or figure: runs and their evaluations, with unique names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, TypeAlias, get_args

from sdclr.config import digest
from sdclr.downstream.config import FinetuneConfig
from sdclr.longtail.config import DatasetName
from sdclr.paper.numbers import Subset
from sdclr.training.config import PretrainConfig

Scale = Literal["cpu", "paper"]
Branch = Literal["dense", "sparse"]

ORACLE: Final = "balanced by labels"
"""Name of the oracle's sampling in tables."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One pre-training run and its evaluations. Equal tasks of different tables share one name and one run."""

    dataset: DatasetName
    split: int
    subset: Subset
    config: PretrainConfig
    scale: Scale
    lists: bool = False
    """Images from the published lists instead of random sampling."""
    branches: tuple[Branch, ...] = ("dense",)
    """The branches to evaluate."""
    snapshot_epochs: int = 0
    """Epochs between snapshots of the network; 0 for no snapshots."""
    oracle: bool = False
    """Sample images by their labels, every class equally often: a bound for methods without labels."""

    @property
    def method(self) -> str:
        """Method name in tables."""
        return method_name(self.config) + (f" + {ORACLE}" if self.oracle else "")

    @cached_property
    def name(self) -> str:
        """Name of the run's folder, which contains everything that determines the result."""
        return _name(self, method_name(self.config), digest(self.config)) + ("-oracle" if self.oracle else "")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A classifier trained on the labeled long tail, from a run's encoder or from scratch (§4.5)."""

    dataset: DatasetName
    split: int
    config: FinetuneConfig
    scale: Scale
    init: Task | None = None
    """The run of the initial encoder."""
    lists: bool = False
    """Images from the published lists instead of random sampling."""

    @property
    def subset(self) -> Subset:
        """The training set."""
        return "long_tail"

    @property
    def method(self) -> str:
        """Method name in tables."""
        return f"{self.config.method.upper()} from {'scratch' if self.init is None else self.init.method}"

    @cached_property
    def name(self) -> str:
        """Name of the folder, which contains everything that determines the result."""
        start = [] if self.init is None else [digest(self.init.config)]
        return _name(self, self.method, "-".join([*start, digest(self.config)]))


Job: TypeAlias = Task | Tuning


def method_name(config: PretrainConfig) -> str:
    """Name of a method in tables: the paper's name if it has one. A constant pruning ratio is not part of it."""
    if config.framework == "moco" and config.damage.kind == "none" and not config.rebalance:
        return "MoCo v2"
    if config.framework != "simclr" or config.decoupled or config.damage.changes:
        return config.method
    if config.rebalance == ("focal",):
        return f"Focal γ={config.focal.gamma:g}"
    if config.rebalance:
        return config.method
    return {"none": "SimCLR", "prune": "SDCLR", "random": "Random pruning", "dropout": "Dropout"}[config.damage.kind]


def merged(jobs: Iterable[Job]) -> list[Job]:
    """Each job once, with all requested branches and snapshots, and after the run that it starts from."""
    found: dict[str, Job] = {}
    for job in jobs:
        if isinstance(job, Tuning):
            if job.init is not None:
                found[job.init.name] = _both(found.get(job.init.name), job.init)
            found[job.name] = job
        else:
            found[job.name] = _both(found.get(job.name), job)
    return list(found.values())


def _both(known: Job | None, task: Task) -> Task:
    """One task with the branches and snapshots of two equal tasks."""
    if not isinstance(known, Task):
        return task
    branches = tuple(branch for branch in get_args(Branch) if branch in known.branches + task.branches)
    return replace(known, branches=branches, snapshot_epochs=max(known.snapshot_epochs, task.snapshot_epochs))


def _name(job: Job, method: str, digests: str) -> str:
    slug = re.sub("[^a-z0-9.]+", "-", method.lower().replace("γ=", "").replace("%", ""))
    parts = (job.dataset, job.subset.replace("_", "-"), f"split{job.split}", slug, digests)
    return "-".join((*parts, *(["lists"] if job.lists else [])))
