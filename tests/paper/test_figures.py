"""The paper's figures: what they draw of which runs, and what they write."""

import csv
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from sdclr.data.sources import SubsetSource, digits
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.errors import InputError
from sdclr.paper.figures import branches, draw, pruned_layers, ratio_sweep
from sdclr.reporting.figures import PALETTE
from sdclr.training.config import DamageConfig, PretrainConfig, Runtime
from sdclr.training.optim import OptimConfig
from sdclr.training.pretrain import pretrain
from sdclr.views.parameters import ViewConfig

TINY = PretrainConfig(
    encoder=EncoderConfig(width=4),
    head=HeadConfig(dim=8),
    views=ViewConfig(image_size=16),
    damage=DamageConfig(ratio=0.5),
    optim=OptimConfig(lr=0.1, warmup_epochs=0),
    epochs=1,
    batch_size=32,
)
RUNTIME = Runtime(device="cpu", progress=False, amp="none", snapshot_epochs=1)


def row(method, ratio, accuracy, *, own=True, branch="dense", probe="linear", task="t", split=1):
    return {
        "task": task,
        "split": split,
        "method": method,
        "ratio": ratio,
        "independent_norm": None if ratio is None else own,
        "branch": branch,
        "probe": probe,
        "all": accuracy,
    }


SWEEP = [
    row("SimCLR", None, 50.0),
    row("SimCLR", None, 52.0, split=2),
    row("SDCLR", 0.9, 54.0),
    row("SDCLR", 0.9, 58.0, split=2),
    row("SDCLR", 0.3, 51.0),
    row("SDCLR", 0.3, 49.0, own=False),
    row("SDCLR", 0.9, 41.0, branch="sparse"),
    row("SDCLR", 0.9, 40.0, probe="few_shot"),
    row("SDCLR", 0.5, None),
    row("SDCLR", 0.7, math.nan),
    row("Focal γ=2", None, 99.0),
]


def test_the_sweep_has_both_normalizations_and_simclr_as_a_level():
    figure, rows = ratio_sweep(SWEEP)
    linear, few_shot = figure.axes
    own, shared, level = linear.lines
    np.testing.assert_allclose(own.get_xydata(), [(0.3, 51), (0.9, 56)])
    np.testing.assert_allclose(shared.get_xydata(), [(0.3, 49)])
    assert set(level.get_ydata()) == {51}
    (few,) = few_shot.lines
    np.testing.assert_allclose(few.get_xydata(), [(0.9, 40)])
    assert [own.get_color(), shared.get_color(), few.get_color()] == [PALETTE[0], PALETTE[1], PALETTE[0]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["SDCLR, own normalization", "SDCLR, shared normalization", "SimCLR"]
    found = {(r["probe"], r["line"], r["ratio"]): r for r in rows}
    assert len(found) == len(rows) == 5
    best = found["linear", "SDCLR, own normalization", 0.9]
    assert (best["all"], best["splits"]) == (56, 2)
    assert best["deviation"] == pytest.approx(math.sqrt(8))
    assert math.isnan(found["linear", "SDCLR, own normalization", 0.3]["deviation"])


def test_branches_lie_side_by_side():
    figure, rows = branches(SWEEP)
    dense, sparse = figure.axes[0].lines
    np.testing.assert_allclose(dense.get_xydata(), [(0.3, 51), (0.9, 56)])
    np.testing.assert_allclose(sparse.get_xydata(), [(0.9, 41)])
    assert {r["line"] for r in rows} == {"Dense branch", "Pruned branch"}


def test_figures_without_their_runs_are_refused():
    with pytest.raises(InputError, match="no such run of SDCLR"):
        ratio_sweep(SWEEP[:2])
    with pytest.raises(InputError, match="no such run of SDCLR"):
        branches([])
    with pytest.raises(InputError, match="no layers in common"):
        pruned_layers({})
    with pytest.raises(InputError, match="no layers in common"):
        pruned_layers({0.5: [{"a": 0.1}, {"b": 0.1}]})


def test_layers_are_means_over_splits_with_the_global_ratio():
    figure, rows = pruned_layers(
        {0.9: [{"e.a": 0.7, "e.b": 1.0}, {"e.a": 0.5, "e.b": 1.0}], 0.3: [{"e.a": 0.2, "e.b": 0.4}]}
    )
    low, high, low_ratio, high_ratio = figure.axes[0].lines
    np.testing.assert_allclose(low.get_ydata(), [20, 40])
    np.testing.assert_allclose(high.get_ydata(), [60, 100])
    for line, level, height in ((low, low_ratio, 30), (high, high_ratio, 90)):
        assert level.get_color() == line.get_color()
        np.testing.assert_allclose(level.get_ydata(), height)
    assert [(r["ratio"], r["position"], r["layer"], r["splits"]) for r in rows] == [
        (0.3, 0, "e.a", 1),
        (0.3, 1, "e.b", 1),
        (0.9, 0, "e.a", 2),
        (0.9, 1, "e.b", 2),
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    few, folder = SubsetSource(digits(), np.arange(64), name="few"), tmp_path_factory.mktemp("runs")
    split = SimpleNamespace(
        few_shot=few,
        test=SubsetSource(digits(), np.arange(100, 160), name="test"),
        counts=np.arange(20, 10, -1),
        rule="thirds",
    )
    found = []
    for method, damage in {"SimCLR": DamageConfig(kind="none"), "SDCLR": DamageConfig(ratio=0.5)}.items():
        config = dataclasses.replace(TINY, damage=damage)
        run = pretrain(few, config, run=folder / method, runtime=RUNTIME)
        task = SimpleNamespace(
            name=method, method=method, dataset="cifar10_lt", split=1, subset="long_tail", config=config
        )
        found.append(SimpleNamespace(task=task, run=run, split=split))
    return found


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_shares_of_both_methods_are_drawn_from_snapshots(tasks, tmp_path):
    svg, png, table = draw("figure2", tasks, [], tmp_path / "out")
    assert [path.name for path in (svg, png, table)] == ["figure2.svg", "figure2.png", "figure2.csv"]
    rows = read(table)
    assert [(r["method"], r["ratio"], r["epoch"], r["group"]) for r in rows] == [
        (method, "0.5", "1", group) for method in ("SimCLR", "SDCLR") for group in ("many", "medium", "few")
    ]
    for method in ("SimCLR", "SDCLR"):
        assert sum(float(r["share"]) for r in rows if r["method"] == method) == pytest.approx(1)


def test_heat_maps_are_those_of_the_rarest_classes(tasks, tmp_path):
    *_, table = draw("figure5", tasks, [], tmp_path)
    rows = read(table)
    assert {r["class"] for r in rows} == {"7", "8", "9"}
    shown = [r["class"] for r in rows if r["method"] == "SDCLR" and r["shown"] == "True"]
    assert sorted(shown) == ["7", "7", "8", "8", "9", "9"]
    assert len(rows) == 2 * sum(int(label) > 6 for label in tasks[0].split.test.labels)
    assert [r["id"] for r in rows[: len(rows) // 2]] == [r["id"] for r in rows[len(rows) // 2 :]]


def test_sparsity_is_that_of_the_runs_competitor(tasks, tmp_path):
    *_, table = draw("figure6", tasks, [], tmp_path)
    expected = tasks[1].run.objective().competitor.sparsity()
    rows = read(table)
    assert [r["layer"] for r in rows] == list(expected)
    np.testing.assert_allclose([float(r["removed"]) for r in rows], list(expected.values()), rtol=1e-5)


def test_each_data_set_has_files_of_its_own_and_only_its_results(tasks, tmp_path):
    def on(dataset, name, subset="long_tail"):
        task = SimpleNamespace(**vars(tasks[1].task) | {"dataset": dataset, "name": name, "subset": subset})
        return SimpleNamespace(task=task, run=tasks[1].run, split=tasks[1].split)

    chosen = [on("cifar10_lt", "a"), on("cifar100_lt", "b"), on("cifar10", "c", subset="full")]
    results = [
        row("SDCLR", 0.5, value, task=name) for name, value in {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}.items()
    ]
    files = draw("figure3", chosen, results, tmp_path)
    assert [file.name for file in files if file.suffix == ".csv"] == [
        "figure3-cifar10_lt.csv",
        "figure3-cifar100_lt.csv",
    ]
    assert [float(r["all"]) for file in files if file.suffix == ".csv" for r in read(file)] == [10, 20]
    assert [r["deviation"] for r in read(files[2])] == [""]
    with pytest.raises(InputError, match="no such run is finished"):
        draw("figure3", chosen[2:], results, tmp_path)


def test_a_comparison_needs_both(tasks, tmp_path):
    with pytest.raises(InputError, match="no run of SDCLR is finished"):
        draw("figure5", tasks[:1], [], tmp_path)


def test_equal_runs_give_equal_files(tasks, tmp_path):
    first, second = (draw("figure5", tasks, [], tmp_path / name) for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
