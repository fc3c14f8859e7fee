"""What stands behind each table and figure."""

from dataclasses import replace

import pytest

from sdclr.errors import InputError
from sdclr.paper.experiments import EXPERIMENTS, Setting, experiment, pretraining
from sdclr.paper.tasks import Task
from sdclr.recipes import cifar_lt, imagenet100_lt

CPU, PAPER = Setting(scale="cpu"), Setting(scale="paper")


def names(name, setting=CPU):
    return {job.name for job in experiment(name, setting).jobs}


def test_tables_share_their_runs():
    assert names("table1") == names("table2")
    assert names("table4") == names("table5")
    assert {name for name in names("table1") if "long-tail" in name} <= names("table4")
    assert names("figure4") < names("figure3")
    assert names("figure6") == names("figure3")
    assert names("figure2") == names("figure5") <= names("table4")
    assert names("table4") - names("ablations") == {name for name in names("table4") if "imagenet" in name}
    starts = {job.init.name for job in experiment("ride", CPU).jobs if not isinstance(job, Task) and job.init}
    assert starts <= names("table4")


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("setting", [CPU, PAPER])
def test_every_experiment_has_rows_of_distinct_runs(name, setting):
    made = experiment(name, setting)
    assert made.name == name
    assert made.rows
    for row in made.rows:
        assert len({job.name for job in row.jobs}) == len(row.jobs) > 0
        assert all(job.split == split for split, job in enumerate(row.jobs, start=1))
    assert (made.figure is None) == (not name.startswith("figure"))
    labels = [(row.data, row.label, row.probe, row.branch) for row in made.rows]
    assert len(set(labels)) == len(labels)


def test_paper_numbers_stand_beside_their_rows():
    found = {(row.data, row.label): row.paper for row in experiment("table4", CPU).rows}
    assert found["CIFAR-10-LT", "SDCLR"]["all"] == (82.00, 0.68)
    found = {(row.data, row.label): row.paper for row in experiment("table1", CPU).rows}
    assert found["CIFAR-10-LT", "SimCLR on D_b"]["all"].mean == 80.88
    assert found["CIFAR-10-LT", "SimCLR on D_i"]["all"].mean == 75.55
    assert all(row.paper for table in ("table1", "table3", "table6", "ride") for row in experiment(table, PAPER).rows)


def test_the_paper_scale_is_the_recipe():
    assert pretraining("cifar10_lt", "long_tail", "sdclr", PAPER, 3) == replace(cifar_lt("sdclr"), seed=3)
    assert pretraining("imagenet100_lt", "balanced", "simclr", PAPER, 1) == replace(imagenet100_lt("simclr"), seed=1)
    assert pretraining("cifar100", "full", "simclr", PAPER, 1).epochs == 1000
    deep = pretraining("cifar10_lt", "long_tail", "sdclr", replace(PAPER, head="reference"), 1)
    assert (deep.head.layers, deep.epochs) == (3, 2000)


def test_the_small_scale_is_small():
    config = pretraining("cifar10_lt", "long_tail", "sdclr", CPU, 1)
    assert (config.encoder.width, config.views.image_size, config.batch_size, config.epochs) == (16, 16, 256, 40)
    assert (config.damage.ratio, config.optim.lr, config.optim.warmup_epochs) == (0.5, 0.25, 4)
    assert (config.temperature, config.head.layers) == (0.2, 2)
    assert pretraining("cifar10", "full", "sdclr", CPU, 1).epochs == 20
    short = pretraining("cifar10_lt", "long_tail", "sdclr", replace(CPU, epochs=1), 1)
    assert (short.epochs, short.optim.warmup_epochs) == (1, 0.1)


def test_snapshots_are_kept_for_figure_2_whichever_table_trains():
    for name in ("table1", "table4", "figure2", "figure3", "ablations"):
        for job in experiment(name, CPU).jobs:
            watched = job.split == 1 and job.subset == "long_tail" and job.method in {"SimCLR", "SDCLR"}
            plain = job.method == "SimCLR" or (job.config.damage.ratio == 0.5 and job.config.damage.independent_norm)
            assert job.snapshot_epochs == (4 if watched and plain else 0), job.name


def test_splits_and_lists():
    made = experiment("table4", replace(PAPER, lists=True))
    lengths = {row.data: len(row.jobs) for row in made.rows}
    assert lengths == {"CIFAR-10-LT": 5, "CIFAR-100-LT": 5, "ImageNet-100-LT": 1}
    assert all(job.lists == (job.split == 1) for job in made.jobs)
    assert {len(row.jobs) for row in experiment("table6", replace(CPU, splits=2)).rows} == {2}
    assert {job.config.focal.gamma for job in experiment("ablations", CPU).jobs if "focal" in job.name} == {
        0.5,
        1,
        2,
        3,
    }
    assert {job.config.encoder.name for job in experiment("ride", PAPER).jobs} == {"resnet32"}


@pytest.mark.parametrize("wrong", [{"splits": 0}, {"epochs": 0}])
def test_nothing_is_no_number_of_splits_or_epochs(wrong):
    with pytest.raises(InputError, match="1 or more, not 0"):
        Setting(**wrong)
