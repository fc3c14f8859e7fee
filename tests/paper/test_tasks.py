"""Names of jobs tell all that decides their result, and nothing else."""

from dataclasses import replace

import pytest

from sdclr.downstream.config import FinetuneConfig
from sdclr.paper.tasks import Task, Tuning, merged, method_name
from sdclr.training.config import DamageConfig, FocalConfig, MoCoConfig, PretrainConfig

TASK = Task(dataset="cifar10_lt", split=1, subset="long_tail", config=PretrainConfig(seed=1), scale="cpu")
TUNING = Tuning(dataset="cifar10_lt", split=1, config=FinetuneConfig(method="ride"), scale="cpu", init=TASK)


def test_names_stay():
    assert TASK.name == "cifar10_lt-long-tail-split1-sdclr-a4bbadc1"


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "cifar100_lt"},
        {"split": 2},
        {"subset": "balanced"},
        {"lists": True},
        {"config": PretrainConfig(seed=2)},
        {"config": PretrainConfig(seed=1, damage=DamageConfig(independent_norm=False))},
        {"config": PretrainConfig(seed=1, epochs=70)},
    ],
)
def test_what_changes_the_result_changes_the_name(change):
    assert replace(TASK, **change).name != TASK.name


def test_what_is_measured_does_not():
    assert replace(TASK, branches=("dense", "sparse"), snapshot_epochs=3).name == TASK.name


def test_a_classifiers_name_tells_its_start():
    other = replace(TUNING, init=replace(TASK, config=PretrainConfig(seed=3)))
    names = {
        TUNING.name,
        replace(TUNING, init=None).name,
        other.name,
        replace(TUNING, config=FinetuneConfig(lr=1)).name,
    }
    assert len(names) == 4
    assert TUNING.method == "RIDE from SDCLR"
    assert replace(TUNING, init=None).method == "RIDE from scratch"


def test_merging_keeps_all_that_is_asked_and_the_start_first():
    both = replace(TASK, branches=("sparse",))
    seen = replace(TASK, snapshot_epochs=4)
    assert merged([TUNING, both, seen, TASK]) == [
        replace(TASK, branches=("dense", "sparse"), snapshot_epochs=4),
        TUNING,
    ]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (PretrainConfig(), "SDCLR"),
        (PretrainConfig(damage=DamageConfig(kind="none")), "SimCLR"),
        (PretrainConfig(damage=DamageConfig(kind="random")), "Random pruning"),
        (PretrainConfig(damage=DamageConfig(kind="dropout")), "Dropout"),
        (PretrainConfig(framework="moco", moco=MoCoConfig(queue=8), damage=DamageConfig(kind="none")), "MoCo v2"),
        (PretrainConfig(rebalance=("focal",), focal=FocalConfig(gamma=0.5)), "Focal γ=0.5"),
    ],
)
def test_methods_are_called_as_in_the_tables(config, name):
    assert method_name(config) == name
