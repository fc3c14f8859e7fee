"""The runs of each table and figure of the paper, in the paper's setting and in a small one for CPUs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast, get_args

from sdclr.downstream.config import FinetuneConfig
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.longtail.config import DatasetName
from sdclr.paper.numbers import FOCAL_BESIDE, Measure, Probe, Reported, Subset, reported
from sdclr.paper.tasks import Branch, Job, Scale, Task, Tuning, merged
from sdclr.recipes import HeadKind, Method, cifar_lt, imagenet100_lt, imagenet_lt
from sdclr.training.config import FocalConfig, PretrainConfig
from sdclr.views.config import ViewConfig

TableName = Literal["table1", "table2", "table3", "table4", "table5", "table6", "ablations", "ride"]
FigureName = Literal["figure2", "figure3", "figure4", "figure5", "figure6"]
ExperimentName = Literal[TableName, FigureName]
EXPERIMENTS: Final[tuple[ExperimentName, ...]] = get_args(ExperimentName)

DATA_NAMES: Final[Mapping[DatasetName, str]] = {
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet_lt": "ImageNet-LT",
    "imagenet_lt_exp": "ImageNet-LT-exp",
    "imagenet100_lt": "ImageNet-100-LT",
}
PROBE_NAMES: Final[Mapping[Probe, str]] = {
    "linear": "linear probe",
    "few_shot": "few-shot probe",
    "knn": "kNN",
    "fine_tuned": "fine-tuned classifier",
}
SPLITS: Final[Mapping[Scale, int]] = {"cpu": 3, "paper": 5}
"""Number of sub-samplings that each scale averages over."""
DRAWN_ONCE: Final = frozenset[DatasetName]({"imagenet_lt", "imagenet_lt_exp", "imagenet100_lt"})
"""Datasets with only one sub-sampling in the paper."""
RATIOS: Final[Mapping[Scale, tuple[float, ...]]] = {"cpu": (0.3, 0.5, 0.7, 0.9), "paper": (0.3, 0.5, 0.7, 0.9, 0.95)}
"""Pruning ratios of Figures 3, 4 and 6."""
GAMMAS: Final = (0.5, 1.0, 2.0, 3.0)
"""Values of γ for the focal loss (§4.8)."""
SMALL_RATIO: Final = 0.5
"""Pruning ratio at the small scale. 0.9 is too high for a quarter of the width (docs/results/cifar10_lt.md)."""

_GROUPED: Final[tuple[Measure, ...]] = ("many", "medium", "few", "std", "all")
_SIMPLE: Final[tuple[Method, Method]] = ("simclr", "sdclr")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Size of the experiments."""

    scale: Scale = "cpu"
    splits: int | None = None
    """Sub-samplings of CIFAR; by default three at the small scale and five at the paper's. ImageNet has one."""
    head: HeadKind = "matched"
    lists: bool = False
    """Whether published lists are available; they exist only for the first split."""
    epochs: int | None = None
    """Epochs of every run, for a trial; by default those of the scale."""

    def __post_init__(self) -> None:
        for name in ("splits", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} is 1 or more, not {value}")

    def numbers(self, dataset: DatasetName) -> range:
        """The numbers of a dataset's splits, which are also the seeds of their runs."""
        most = self.splits or SPLITS[self.scale]
        return range(1, (1 if dataset in DRAWN_ONCE else most) + 1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: one job per split, and the paper's numbers."""

    data: str
    label: str
    probe: Probe
    jobs: tuple[Job, ...]
    branch: Branch = "dense"
    paper: Mapping[Measure, Reported]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of the paper."""

    name: ExperimentName
    title: str
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def jobs(self) -> list[Job]:
        """Its jobs, each once."""
        return merged(job for row in self.rows for job in row.jobs)

    @property
    def figure(self) -> FigureName | None:
        """Name of the figure to draw; None for a table."""
        return cast("FigureName", self.name) if self.name in get_args(FigureName) else None


def pretraining(dataset: DatasetName, subset: Subset, method: Method, setting: Setting, split: int) -> PretrainConfig:
    """The recipe of a run, reduced at the small scale. Its seed is the number of the split.

    Runs on full datasets have half as many epochs, as in the paper.
    """
    recipes = {"imagenet_lt": imagenet_lt, "imagenet_lt_exp": imagenet_lt, "imagenet100_lt": imagenet100_lt}
    config = recipes.get(dataset, cifar_lt)(method, setting.head)
    if setting.scale == "cpu":
        config = _small(config)
    epochs = config.epochs // 2 if subset == "full" else config.epochs
    warmup = config.optim.warmup_epochs
    if setting.epochs is not None:
        epochs = setting.epochs
        warmup = min(config.optim.warmup(config.epochs), setting.epochs / 10)
    return replace(config, epochs=epochs, optim=replace(config.optim, warmup_epochs=warmup), seed=split)


def _small(config: PretrainConfig) -> PretrainConfig:
    """A recipe with a quarter of the width, half the resolution, a fiftieth of the epochs, and a lower ratio."""
    return replace(
        config,
        encoder=EncoderConfig(name="resnet18", stem="small", width=16),
        views=ViewConfig(image_size=16),
        damage=replace(config.damage, ratio=SMALL_RATIO),
        optim=replace(config.optim, lr=0.25, warmup_epochs=4),  # half the batch size, half the learning rate
        batch_size=256,
        epochs=40,
    )


def experiment(name: ExperimentName, setting: Setting) -> Experiment:
    """The rows and runs of a table or figure, with the paper's numbers.

    Args:
        name: The table or figure.
        setting: Scale and splits.
    """
    return _MAKERS[name](setting)


def _task(
    dataset: DatasetName,
    subset: Subset,
    method: Method,
    setting: Setting,
    split: int,
    *,
    gamma: float | None = None,
    ratio: float | None = None,
    independent_norm: bool = True,
    branches: tuple[Branch, ...] = ("dense",),
) -> Task:
    config = pretraining(dataset, subset, method, setting, split)
    if gamma is not None:
        config = replace(config, focal=FocalConfig(gamma=gamma))
    if ratio is not None:
        config = replace(config, damage=replace(config.damage, ratio=ratio, independent_norm=independent_norm))
    return as_task(dataset, subset, config, setting, split, branches=branches)


def as_task(
    dataset: DatasetName,
    subset: Subset,
    config: PretrainConfig,
    setting: Setting,
    split: int,
    *,
    branches: tuple[Branch, ...] = ("dense",),
) -> Task:
    """The task of one run of a split."""
    # Figure 2 needs snapshots of these runs. All tables keep them, so that Figure 2 does not train the runs again.
    usual = (pretraining(dataset, subset, method, setting, split) for method in _SIMPLE)
    looked_back_on = split == 1 and subset == "long_tail" and config in usual
    return Task(
        dataset=dataset,
        split=split,
        subset=subset,
        config=config,
        scale=setting.scale,
        lists=setting.lists and split == 1,
        branches=branches,
        snapshot_epochs=max(1, config.epochs // 10) if looked_back_on else 0,
    )


def _row(dataset: DatasetName, probe: Probe, jobs: Sequence[Job], *, label: str | None = None) -> Row:
    first = jobs[0]
    numbers = reported(dataset, first.subset, first.method, probe)
    return Row(data=DATA_NAMES[dataset], label=label or first.method, probe=probe, jobs=tuple(jobs), paper=numbers)


def _over_splits(
    dataset: DatasetName, subset: Subset, method: Method, setting: Setting, gamma: float | None = None
) -> list[Task]:
    return [_task(dataset, subset, method, setting, split, gamma=gamma) for split in setting.numbers(dataset)]


def _controlled(
    name: ExperimentName, title: str, datasets: tuple[DatasetName, ...], probes: tuple[Probe, ...]
) -> Callable[[Setting], Experiment]:
    """Tables 1-3: SimCLR on a long tail, and on a balanced set of equal size."""
    subsets: dict[Subset, str] = {"balanced": "SimCLR on D_b", "long_tail": "SimCLR on D_i"}

    def make(setting: Setting) -> Experiment:
        rows = tuple(
            _row(dataset, probe, _over_splits(dataset, subset, "simclr", setting), label=label)
            for probe in probes
            for dataset in datasets
            for subset, label in subsets.items()
        )
        note = "D_i is the long tail, D_b a balanced set of equal size; groups are those of D_i."
        return Experiment(name=name, title=title, measures=_GROUPED, rows=rows, note=note)

    return make


def _compared(
    name: ExperimentName, title: str, datasets: tuple[DatasetName, ...], probe: Probe, subset: Subset
) -> Callable[[Setting], Experiment]:
    """Tables 4-6: SimCLR and SDCLR."""

    def make(setting: Setting) -> Experiment:
        rows = tuple(
            _row(dataset, probe, _over_splits(dataset, subset, method, setting))
            for dataset in datasets
            for method in _SIMPLE
        )
        measures: tuple[Measure, ...] = ("all", "std_classes") if subset == "full" else _GROUPED
        return Experiment(name=name, title=title, measures=measures, rows=rows)

    return make


def _ablated_on(setting: Setting) -> tuple[DatasetName, ...]:
    """The paper ablates on CIFAR-100-LT. The small scale adds CIFAR-10-LT, in case CIFAR-100 is missing."""
    return ("cifar10_lt", "cifar100_lt") if setting.scale == "cpu" else ("cifar100_lt",)


def _ablations(setting: Setting) -> Experiment:
    arms: list[tuple[Method, float | None]] = [
        *((method, None) for method in (*_SIMPLE, "dropout", "random_pruning", "moco")),
        *(("focal", gamma) for gamma in GAMMAS),
    ]
    probes: tuple[Probe, ...] = ("linear", "few_shot")
    rows = tuple(
        _row(dataset, probe, _over_splits(dataset, "long_tail", method, setting, gamma))
        for probe in probes
        for dataset in _ablated_on(setting)
        for method, gamma in arms
    )
    title = "§4.8: alternatives to pruning, and other baselines"
    return Experiment(name="ablations", title=title, measures=_GROUPED, rows=rows, note=FOCAL_BESIDE)


def _ride(setting: Setting) -> Experiment:
    """§4.5: RIDE classifiers, from scratch and from the encoders of Table 4."""
    rows = []
    for dataset in _ablated_on(setting):
        starts: list[Sequence[Task | None]] = [[None for _ in setting.numbers(dataset)]]
        starts += [
            [_tuned_from(task) for task in _over_splits(dataset, "long_tail", method, setting)] for method in _SIMPLE
        ]
        rows += [_row(dataset, "fine_tuned", _tunings(dataset, setting, inits)) for inits in starts]
    title = "§4.5: RIDE from scratch, from SimCLR and from SDCLR"
    return Experiment(name="ride", title=title, measures=_GROUPED, rows=tuple(rows))


def _tuned_from(task: Task) -> Task:
    """The run that RIDE starts from: with a ResNet-32 on CIFAR (§4.5), or the run of Table 4 at the small scale."""
    if task.scale == "cpu":
        return task
    return replace(task, config=replace(task.config, encoder=EncoderConfig(name="resnet32")), snapshot_epochs=0)


def _tunings(dataset: DatasetName, setting: Setting, inits: Sequence[Task | None]) -> list[Tuning]:
    found = []
    for split, init in zip(setting.numbers(dataset), inits, strict=True):
        like = _tuned_from(_task(dataset, "long_tail", "simclr", setting, split)).config
        config = FinetuneConfig(method="ride", encoder=like.encoder, image_size=like.views.image_size, seed=split)
        epochs = setting.epochs or (20 if setting.scale == "cpu" else config.epochs)
        tuning = Tuning(
            dataset=dataset,
            split=split,
            config=replace(config, epochs=epochs, second_epochs=max(1, epochs // 20)),
            scale=setting.scale,
            init=init,
            lists=setting.lists and split == 1,
        )
        found.append(tuning)
    return found


def _forgotten(setting: Setting) -> Experiment:
    return _split_one("figure2", "Figure 2: groups among the 1 % most forgotten over epochs", setting)


def _attended(setting: Setting) -> Experiment:
    return _split_one("figure5", "Figure 5: Grad-CAM on tail classes", setting)


def _split_one(name: ExperimentName, title: str, setting: Setting) -> Experiment:
    """SimCLR and SDCLR on the first split, with the settings of Table 4."""
    dataset: DatasetName = "cifar10_lt" if setting.scale == "cpu" else "cifar100_lt"
    if name == "figure5" and setting.scale == "paper":
        dataset = "imagenet100_lt"  # at 32 px there is little to see
    rows = tuple(_row(dataset, "linear", [_task(dataset, "long_tail", method, setting, 1)]) for method in _SIMPLE)
    return Experiment(name=name, title=title, measures=_GROUPED, rows=rows)


def _swept(name: ExperimentName, title: str) -> Callable[[Setting], Experiment]:
    """Figures 3, 4 and 6: SDCLR over pruning ratios, with separate and shared normalization of the pruned branch."""

    def make(setting: Setting) -> Experiment:
        dataset: DatasetName = "cifar10_lt" if setting.scale == "cpu" else "cifar100_lt"
        branches: tuple[Branch, ...] = ("dense", "sparse") if name == "figure4" else ("dense",)
        probes: tuple[Probe, ...] = ("linear", "few_shot") if name == "figure4" else ("linear",)
        norms = {True: "own norm"} if name == "figure4" else {True: "own norm", False: "shared norm"}
        level = _task(dataset, "long_tail", "simclr", setting, 1)
        rows = [_row(dataset, probe, [level]) for probe in probes]
        for independent, norm in norms.items():
            for ratio in RATIOS[setting.scale]:
                task = _task(
                    dataset, "long_tail", "sdclr", setting, 1,
                    ratio=ratio, independent_norm=independent, branches=branches,
                )  # fmt: skip
                label = f"SDCLR {ratio:g}, {norm}"
                rows += [
                    replace(_row(dataset, probe, [task], label=f"{label}, {branch}"), branch=branch, paper={})
                    for probe in probes
                    for branch in branches
                ]
        return Experiment(name=name, title=title, measures=_GROUPED, rows=tuple(rows))

    return make


_CIFAR: Final[tuple[DatasetName, ...]] = ("cifar10_lt", "cifar100_lt")
_IMAGENET: Final[tuple[DatasetName, ...]] = ("imagenet_lt", "imagenet_lt_exp", "imagenet100_lt")
_MAKERS: Final[Mapping[ExperimentName, Callable[[Setting], Experiment]]] = {
    "table1": _controlled("table1", "Table 1: balanced and long-tailed, linear", _CIFAR, ("linear",)),
    "table2": _controlled("table2", "Table 2: balanced and long-tailed, few-shot", _CIFAR, ("few_shot",)),
    "table3": _controlled("table3", "Table 3: balanced and long-tailed ImageNet", _IMAGENET, ("linear", "few_shot")),
    "table4": _compared(
        "table4", "Table 4: SimCLR and SDCLR, linear", (*_CIFAR, "imagenet100_lt"), "linear", "long_tail"
    ),
    "table5": _compared(
        "table5", "Table 5: SimCLR and SDCLR, few-shot", (*_CIFAR, "imagenet100_lt"), "few_shot", "long_tail"
    ),
    "table6": _compared("table6", "Table 6: full balanced sets, linear", ("cifar10", "cifar100"), "linear", "full"),
    "ablations": _ablations,
    "ride": _ride,
    "figure2": _forgotten,
    "figure3": _swept("figure3", "Figure 3: accuracy over pruning ratios"),
    "figure4": _swept("figure4", "Figure 4: dense and sparse branch over pruning ratios"),
    "figure5": _attended,
    "figure6": _swept("figure6", "Figure 6: share of weights removed from each layer"),
}
