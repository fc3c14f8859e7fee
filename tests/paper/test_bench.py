"""The bench: what a matrix means, what the leaderboard says of it, and one from images to files."""

import contextlib
import csv
import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from sdclr.cli.actions import bench as cli
from sdclr.cli.actions.bench import planned
from sdclr.cli.commands.bench import Bench
from sdclr.config import differences, to_json
from sdclr.data.sources import digits
from sdclr.errors import InputError
from sdclr.files import read_json
from sdclr.paper import bench, runner
from sdclr.paper.bench import Cell, configure, crossed, matrix, parse_cell, widened
from sdclr.paper.experiments import Setting, experiment, pretraining
from sdclr.paper.leaderboard import FIGURES, ORACLE_NOTE, leaderboard, paired, tables, to_csv, to_plain
from sdclr.paper.results import read_results
from sdclr.paper.runner import Queue, balancing_weights, run_queue
from sdclr.recipes import with_framework

CPU = Setting(splits=2)
made = partial(matrix, dataset="cifar10_lt", setting=CPU)


def config_of(text, *, ratio=None, setting=CPU, dataset="cifar10_lt"):
    return configure(parse_cell(text), dataset, setting, ratio)


def test_a_cell_from_its_text_and_back():
    text = "moco+prune+temperature+focal+oracle@damage.ratio=0.7@encoder.name=resnet34@encoder.mean=[0.3, 0.5, 0.4]"
    cell = parse_cell(text)
    assert cell == Cell(
        framework="moco",
        damage="prune",
        rebalance=("temperature", "focal"),
        oracle=True,
        values=(("damage.ratio", 0.7), ("encoder.name", "resnet34"), ("encoder.mean", [0.3, 0.5, 0.4])),
    )
    assert str(cell) == text
    assert parse_cell("simclr+none+focal+temperature") == parse_cell("simclr+none+temperature+focal")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("simclr", "names no damage"),
        ("simcrl+none", "'simcrl' is not a known framework: choose from simclr, moco"),
        ("simclr+prume", "'prume' is not a known damage"),
        ("simclr+none+focl", "'focl' is not a known rebalancer: choose from .*, oracle"),
        ("simclr+none@epochs", "'epochs' sets nothing"),
        ("simclr+none@seed=3", "seed is set by the number of the split"),
        ("simclr+none@damage.kind=prune", "the second part of the cell"),
    ],
)
def test_what_is_no_cell_says_why(text, why):
    with pytest.raises(InputError, match=why):
        parse_cell(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "simclr+prune@damage.ration=0.5",
            r"simclr\+prune@damage.ration=0.5: unknown key 'damage.ration': did you mean 'damage.ratio'",
        ),
        ("simclr+prune@epochs=long", "'epochs' must be a whole number, not 'long'"),
        ("simclr+prune@temperature=cold", "'temperature' must be a number, not 'cold'"),
        ("simclr+prune@temperature.low=1", "'temperature' in 'temperature.low' has no fields"),
        ("simclr+prune@damage.ratio=1.5", r"must be in \[0, 1\)"),
        ("simclr+none@damage.ratio=0.5", "a cell without damage cannot set values for it"),
        ("byol+none+focal", "BYOL is not contrastive"),
        ("simclr+none+focal+focal", "names one twice"),
    ],
)
def test_what_a_configuration_refuses_names_the_cell(text, why):
    with pytest.raises(InputError, match=why):
        made([parse_cell(text)])


def test_axes_leave_out_what_contradicts_itself_and_say_so():
    cells = crossed(("simclr", "byol", "vicreg"), ("none", "prune"), ("none", "temperature,focal"))
    assert len(cells) == 12
    found = made(cells, lenient=True)
    assert [str(entry.cell) for entry in found.entries] == [
        *("simclr+none", "simclr+none+temperature+focal", "simclr+prune", "simclr+prune+temperature+focal"),
        *("byol+none", "byol+prune", "vicreg+none", "vicreg+prune"),
    ]
    assert set(found.left_out) == {f"{a}+{b}+temperature+focal" for a in ("byol", "vicreg") for b in ("none", "prune")}
    assert "is not contrastive" in found.left_out["byol+none+temperature+focal"]
    assert "no loss per image" in found.left_out["vicreg+prune+temperature+focal"]
    with pytest.raises(InputError, match="no cell is left: byol"):
        made(crossed(("byol",), ("none",), ("focal",)), lenient=True)
    with pytest.raises(InputError, match="'fokal' is not a known rebalancer"):
        crossed(("simclr",), ("none",), ("temperature,fokal",))


def test_an_adaptive_ratio_is_for_what_prunes_by_magnitude():
    found = made(crossed(("simclr",), ("none", "prune", "random"), ("none",)), ratio="adaptive", lenient=True)
    assert [entry.config.damage.kind for entry in found.entries] == ["none", "prune"]
    assert found.entries[1].config.damage.ratio == "adaptive"
    assert found.entries[0].config == replace(pretraining("cifar10_lt", "long_tail", "simclr", CPU, 1), seed=1)
    assert "by magnitude" in found.left_out["simclr+random"]
    with pytest.raises(InputError, match="'ratio' must be"):  # not left out: the same for all of them
        made(crossed(("simclr",), ("prune",), ("none",)), ratio="adaptiv", lenient=True)


@pytest.mark.parametrize(
    ("text", "method"), [("simclr+none", "simclr"), ("simclr+prune", "sdclr"), ("moco+none", "moco")]
)
def test_the_paper_has_the_same_runs(text, method):
    for dataset, setting in (
        ("cifar10_lt", CPU),
        ("cifar10_lt", Setting(scale="paper")),
        ("cifar10_lt", Setting(epochs=7)),
    ):
        expected = pretraining(dataset, "long_tail", method, setting, 1)
        assert config_of(text, setting=setting, dataset=dataset) == expected
    if method != "moco":
        expected = pretraining("imagenet100_lt", "long_tail", method, Setting(scale="paper"), 1)
        assert config_of(text, setting=Setting(scale="paper"), dataset="imagenet100_lt") == expected


def test_runs_have_the_names_of_those_of_the_paper():
    theirs = {job.name: job for job in experiment("table4", CPU).jobs}
    for task in made([parse_cell("simclr+none"), parse_cell("simclr+prune")]).tasks:
        assert theirs[task.name] == task  # with its snapshots, so that a figure finds them


def test_runs_are_called_by_what_they_are():
    texts = ("byol+none", "moco+prune", "simclr+prune+temperature", "simclr+prune@damage.ratio=adaptive", "moco+none")
    tasks = [task for task in made([parse_cell(text) for text in texts]).tasks if task.split == 1]
    assert [task.method for task in tasks] == [
        *("BYOL", "self-damaging MoCo, 50% pruned", "SDCLR, 50% pruned + TS", tasks[3].config.method, "MoCo v2"),
    ]
    assert tasks[1].name.rpartition("-")[0] == "cifar10_lt-long-tail-split1-self-damaging-moco-50-pruned"


def test_heads_follow_from_the_width_and_values_have_the_last_word():
    config = config_of("byol+prune@encoder.width=8@optim.lr=0.9@head.dim=32")
    base = pretraining("cifar10_lt", "long_tail", "sdclr", CPU, 1)
    fitted = with_framework(replace(base, encoder=replace(base.encoder, width=8)), "byol")
    assert differences(fitted, config) == ["head.dim: 256 → 32", f"optim.lr: {fitted.optim.lr} → 0.9"]
    assert fitted.head.hidden == 2 * 64
    moco = config_of("moco+none@moco.momentum=0.5").moco
    assert (moco.queue, moco.momentum) == (4096, 0.5)  # what a cell does not name is the framework's


@pytest.mark.parametrize(("setting", "warmup"), [(CPU, 0.6), (Setting(epochs=3), 0.6)])
def test_epochs_of_a_cell_shrink_the_warm_up_as_the_option_does(setting, warmup):
    config = config_of("simclr+none@epochs=6", setting=setting)
    assert (config.epochs, config.optim.warmup_epochs) == (6, warmup)


def test_a_ratio_for_all_yields_to_a_cells_own():
    ratios = [entry.config.damage.ratio for entry in made(
        [parse_cell("simclr+prune"), parse_cell("simclr+prune@damage.ratio=0.7")], ratio=0.3
    ).entries]  # fmt: skip
    assert ratios == [0.3, 0.7]


def test_splits_are_seeds_and_come_in_turn():
    found = made([parse_cell("simclr+none"), parse_cell("simclr+prune")])
    assert [(task.split, task.config.seed, task.config.damage.kind) for task in found.tasks] == [
        *((1, 1, "none"), (1, 1, "prune"), (2, 2, "none"), (2, 2, "prune")),
    ]
    assert len(matrix([parse_cell("simclr+none")], "imagenet100_lt", Setting(scale="paper")).tasks) == 1


def test_labels_tell_rows_apart():
    cells = [
        parse_cell(text) for text in ("simclr+none", "simclr+none@temperature=0.4", "simclr+none+oracle", "byol+none")
    ]
    assert [entry.label for entry in made(widened(cells, (8, 16))).entries] == [
        "SimCLR (encoder.width 8, temperature 0.2)",
        "SimCLR (encoder.width 16, temperature 0.2)",
        "SimCLR (temperature 0.4, encoder.width 8)",
        "SimCLR (temperature 0.4, encoder.width 16)",
        "SimCLR + balanced by labels (encoder.width 8)",
        "SimCLR + balanced by labels (encoder.width 16)",
        "BYOL (encoder.width 8)",
        "BYOL (encoder.width 16)",
    ]
    plain = made([parse_cell("simclr+none"), parse_cell("simclr+prune"), parse_cell("simclr+prune@damage.ratio=0.7")])
    assert [entry.label for entry in plain.entries] == ["SimCLR", "SDCLR, 50% pruned", "SDCLR, 70% pruned"]
    longer = made([parse_cell("simclr+none"), parse_cell("simclr+prune@epochs=80")])
    assert [entry.label for entry in longer.entries] == ["SimCLR", "SDCLR, 50% pruned (epochs 80)"]
    all_longer = made([parse_cell("simclr+none@epochs=80"), parse_cell("simclr+prune@epochs=80")])
    assert [entry.label for entry in all_longer.entries] == ["SimCLR", "SDCLR, 50% pruned"]


def test_what_is_given_twice_is_one_row():
    texts = ("simclr+none", "simclr+none", "simclr+none@epochs=40", "simclr+none+oracle")
    found = made([parse_cell(text) for text in texts])
    assert [str(entry.cell) for entry in found.entries] == ["simclr+none", "simclr+none+oracle"]
    assert found.left_out == {"simclr+none@epochs=40": "is the same as simclr+none"}
    assert len({task.name for task in found.tasks}) == 4


def test_widths_do_not_touch_a_cell_that_has_one():
    cells = widened([parse_cell("simclr+none"), parse_cell("simclr+none@encoder.width=4")], (8, 16))
    assert [str(cell) for cell in cells] == [f"simclr+none@encoder.width={width}" for width in (8, 16, 4)]
    with pytest.raises(InputError, match="width must be a positive"):
        widened(cells, (0,))


def test_a_baseline_is_found_by_cell_or_label():
    found = made(widened([parse_cell("simclr+none"), parse_cell("simclr+prune")], (8, 16)))
    assert found.find("simclr+prune").config.encoder.width == 8
    assert found.find("simclr+prune@encoder.width=16").config.encoder.width == 16
    assert found.find("SimCLR (encoder.width 16)").config.encoder.width == 16
    with pytest.raises(InputError, match=r"byol\+none is not a row of this bench.*simclr\+none@encoder.width=8"):
        found.find("byol+none")


def results_of(entries, values):
    """A tidy table: `values[entry][split]` is linear All, from which all else is made; None is not finished."""
    rows = []
    for entry, of_splits in zip(entries, values, strict=True):
        for task, value in zip(entry.tasks, of_splits, strict=True):
            for place, probe in enumerate(("linear", "few_shot", "knn")):
                row = {"task": task.name, "split": task.split, "branch": "dense", "probe": probe, "status": "finished"}
                if value is None:
                    rows.append(row | {"status": "failed"})
                    continue
                level = value - 10 * place
                figures = {"all": level, "many": level + 3, "medium": level + 1, "few": level - 4, "std": 100 - level}
                rows.append(row | figures | {"seconds": 2 * value})
    return rows


@pytest.fixture(scope="module")
def three():
    texts = ("simclr+none", "simclr+prune", "simclr+none+oracle")
    return matrix([parse_cell(text) for text in texts], "cifar10_lt", Setting(splits=3)).entries


VALUES = ([50.0, 61.0, 48.5], [53.0, 62.5, 50.0], [51.0, 66.0, None])


def test_means_deviations_and_paired_errors_are_scipys(three):
    lines = {line.entry.cell: line for line in leaderboard(three, results_of(three, VALUES), three[0])}
    level, here, oracle = (lines[entry.cell] for entry in three)
    assert here.figures["linear.all"] == (pytest.approx(np.mean(VALUES[1])), pytest.approx(np.std(VALUES[1], ddof=1)))
    few = np.array(VALUES[1]) - 14
    assert here.figures["few_shot.few"] == (pytest.approx(few.mean()), pytest.approx(few.std(ddof=1)))
    gain, change = here.gains["linear.all"], np.subtract(VALUES[1], VALUES[0])
    assert gain == (pytest.approx(change.mean()), pytest.approx(stats.sem(change)), 3)
    test = stats.ttest_rel(VALUES[1], VALUES[0])
    assert gain.mean / gain.error == pytest.approx(test.statistic)
    assert here.gains["linear.std"].mean == pytest.approx(-change.mean())
    assert gain.error < here.figures["linear.all"].std  # what splits share is gone
    assert oracle.gains["knn.all"] == (pytest.approx(3.0), pytest.approx(stats.sem([1.0, 5.0])), 2)
    assert level.gains["linear.few"] == (0, 0, 3)
    assert (level.cost, here.cost) == (1, pytest.approx(sum(VALUES[1]) / sum(VALUES[0])))
    assert oracle.cost == pytest.approx((51 + 66) / (50 + 61))  # on the splits that both have
    assert oracle.seconds == pytest.approx(51 + 66)
    assert oracle.name.endswith("(2 of 3 splits)")


values = st.dictionaries(st.integers(1, 6), st.one_of(st.none(), st.floats(0, 100)), max_size=6)


@given(values, values)
def test_pairs_are_the_splits_that_both_have(here, there):
    both = [s for s in here if here[s] is not None and there.get(s) is not None]
    gain = paired(here, there)
    if not both:
        assert gain is None
        return
    change = np.array([here[s] - there[s] for s in both])
    assert gain.pairs == len(both)
    assert gain.mean == pytest.approx(change.mean(), abs=1e-9)
    expected = None if len(both) == 1 else pytest.approx(change.std(ddof=1) / math.sqrt(len(both)), abs=1e-9)
    assert gain.error == expected
    assert paired(there, here).mean == pytest.approx(-gain.mean, abs=1e-9)


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("linear.all", [2, 1, 0]),  # 58.5 of two splits, 55.2, 53.2
        ("knn.all", [2, 1, 0]),
        ("linear.std", [2, 1, 0]),  # made to fall with All: the lowest comes first
        ("seconds", [0, 1, 2]),
    ],
)
def test_the_best_comes_first(three, sort, order):
    lines = leaderboard(three, results_of(three, VALUES), three[0], sort=sort)
    assert [three.index(line.entry) for line in lines] == order


def test_what_is_not_known_comes_last(three):
    rows = results_of(three, ([None] * 3, [1.0, 2.0, 3.0], [None] * 3))
    for sort in ("linear.all", "seconds"):
        lines = leaderboard(three, rows, three[0], sort=sort)
        assert [three.index(line.entry) for line in lines] == [1, 0, 2]
    assert lines[0].gains["linear.all"] is lines[0].cost is None
    assert tables(lines, three[0], sort="seconds", title="T")[0].rows[1][1:] == ("\u2013",) * 7
    with pytest.raises(InputError, match=r"'linear' is not a sort key: sort by one of linear\.all"):
        leaderboard(three, rows, three[0], sort="linear")


def test_the_tables_say_what_the_figures_are(three):
    lines = leaderboard(three, results_of(three, VALUES), three[0])
    linear, few_shot, gains = tables(lines, three[0], sort="linear.all", title="CIFAR-10-LT")
    assert linear.columns == ("Method", "All", "Many", "Medium", "Few", "Std", "kNN All", "Relative time")
    assert linear.rows[1][1] == f"{np.mean(VALUES[1]):.2f} ± {np.std(VALUES[1], ddof=1):.2f}"
    assert [row[0] for row in few_shot.rows] == [row[0] for row in linear.rows]
    assert ORACLE_NOTE in linear.note
    assert len(gains.rows) == 2
    change = np.subtract(VALUES[1], VALUES[0])
    assert gains.rows[1][0] == "SDCLR, 50% pruned \u2212 SimCLR"
    assert gains.rows[1][1] == f"+{change.mean():.2f} ± {stats.sem(change):.2f}"
    assert gains.rows[1][3].startswith("\u2212")
    assert [row[-1] for row in gains.rows] == ["2", "3"]
    alone = leaderboard(three[:1], results_of(three, VALUES), three[0])
    shown = tables(alone, three[0], sort="linear.all", title="T")
    assert len(shown) == 2
    assert ORACLE_NOTE not in shown[0].note


def test_csv_and_json_hold_every_figure(three):
    lines = leaderboard(three, results_of(three, VALUES), three[0])
    rows = list(csv.DictReader(to_csv(lines).decode().splitlines()))
    plain = json.loads(json.dumps(to_plain(lines)))
    for row, told, line in zip(rows, plain, lines, strict=True):
        assert row["method"] == told["method"] == line.entry.label
        assert told["config"] == to_json(line.entry.config)
        assert told["runs"] == [task.name for task in line.entry.tasks]
        for key in FIGURES:
            name = key.replace(".", "_")
            assert float(row[f"{name}_mean"]) == told["figures"][key]["mean"] == line.figures[key].mean
            assert float(row[f"{name}_difference_error"]) == told["differences"][key]["error"] == line.gains[key].error


def test_an_oracle_draws_every_class_equally_often():
    source = digits("train")
    share = np.bincount(source.labels, weights=balancing_weights(source))
    np.testing.assert_allclose(share, 1)
    unlabeled = SimpleNamespace(name="half", labels=np.where(source.labels == 3, -1, source.labels))
    with pytest.raises(InputError, match="half has images without a label"):
        balancing_weights(unlabeled)


def test_only_an_oracle_gets_weights(tiny, tmp_path, monkeypatch):
    seen = {}

    def noted(source, config, *, run, runtime, weights):
        del source, config, runtime
        seen[run.name] = weights
        raise RuntimeError("seen enough")

    monkeypatch.setattr(runner, "pretrain", noted)
    task = tiny.tiny_task(epochs=1)
    oracle = replace(task, oracle=True)
    assert oracle.name == f"{task.name}-oracle"
    assert oracle.method == f"{task.method} + balanced by labels"
    run_queue(Queue(folder=tmp_path, data=tiny.tiny_split, runtime=tiny.RUNTIME), [task, oracle])
    assert seen[task.name] is None
    np.testing.assert_array_equal(seen[oracle.name], balancing_weights(tiny.tiny_split(task).long_tail))


@pytest.fixture
def benched(tiny, tmp_path, monkeypatch):
    """Run the command on made data and networks of a second; tells what was trained, as (damage, split)."""
    real, command = runner.pretrain, ("--data", tmp_path, "--folder", tmp_path / "runs", "--splits", "2")

    class Made(runner.Data):
        def __call__(self, job):
            return tiny.tiny_split(job)

    def call(*arguments, broken=()):
        trained = []

        def counted(source, config, **how):
            trained.append((config.damage.kind, config.seed))
            if trained[-1] in broken:
                raise RuntimeError("the disk is on fire")
            return real(source, config, **how)

        monkeypatch.setattr(runner, "pretrain", counted)
        given = (*command, "--device", "cpu", "--amp", "none", "--matrix", "simclr+none", "simclr+prune", *arguments)
        asked = tyro.cli(Bench, args=[str(argument) for argument in given])
        with pytest.raises(SystemExit) if broken else contextlib.nullcontext():
            cli.run(asked, Console(highlight=False, soft_wrap=True))
        return trained

    monkeypatch.setattr(cli, "Data", Made)
    monkeypatch.setattr(bench, "pretraining", lambda *_: replace(tiny.TINY, epochs=1))
    return call


def test_from_images_to_a_leaderboard_with_failures_apart_and_nothing_twice(benched, tmp_path, capsys):
    runs, file = tmp_path / "runs", tmp_path / "runs" / "results" / "leaderboard-cifar10_lt-cpu"

    assert benched("--dry-run") == []
    assert "4 of 4 left" in capsys.readouterr().out
    assert not runs.exists()

    assert benched(broken=[("prune", 2)]) == [("none", 1), ("prune", 1), ("none", 2), ("prune", 2)]
    told, board = capsys.readouterr(), json.loads(file.with_suffix(".json").read_text())
    assert "RuntimeError: the disk is on fire" in told.err
    assert "SDCLR, 30% pruned (1 of 2 splits)" in told.out
    assert list(board["failed"].values()) == ["RuntimeError: the disk is on fire"]
    assert {row["method"]: row["splits"] for row in board["rows"]} == {"SimCLR": 2, "SDCLR, 30% pruned": 1}

    assert benched() == [("prune", 2)]
    page = file.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    assert "Data: CIFAR-10-LT: files as published. Splits: 2, drawn." in page
    assert "resnet18 of width 4 at 8 px, 1 epoch, batches of 32. SMALL" in page
    assert (
        "sdclr bench --data DIR --matrix simclr+none simclr+prune --dataset cifar10_lt --scale cpu --splits 2" in page
    )
    board = json.loads(file.with_suffix(".json").read_text())
    assert (board["baseline"], board["data"], board["failed"]) == ("SimCLR", "files as published", {})
    levels = [row["figures"]["linear.all"]["mean"] for row in board["rows"]]
    assert levels == sorted(levels, reverse=True)
    by_cell = {row["cell"]: row for row in board["rows"]}
    few = {
        cell: [read_json(runs / run / "paper-dense.json")["few_shot"]["balance"]["few"] for run in row["runs"]]
        for cell, row in by_cell.items()
    }
    change, gain = np.subtract(few["simclr+prune"], few["simclr+none"]), by_cell["simclr+prune"]["differences"]
    assert gain["few_shot.few"] == {
        "mean": pytest.approx(change.mean()),
        "error": pytest.approx(stats.sem(change)),
        "pairs": 2,
    }
    assert len(file.with_suffix(".csv").read_text().splitlines()) == 3
    assert len(read_results(file.parent)) == 12

    assert benched("--sort", "seconds", "--baseline", "simclr+prune") == []
    told = capsys.readouterr().out
    assert "Nothing is left to do" in told
    assert "Difference to SDCLR, 30% pruned, split by split" in told


def test_options_that_contradict_each_other(tmp_path):
    with pytest.raises(InputError, match="--matrix names whole cells"):
        Bench(data=tmp_path, matrix=("simclr+none",), damage=("prune",))
    with pytest.raises(InputError, match="--jobs is 1 or more"):
        Bench(data=tmp_path, jobs=0)
    assert [str(entry.cell) for entry in planned(Bench(data=tmp_path)).entries] == ["simclr+none", "simclr+prune"]
    assert tyro.cli(Bench, args=["--data", "d", "--ratio", "adaptive"]).ratio == "adaptive"
    assert tyro.cli(Bench, args=["--data", "d", "--ratio", "0.5"]).ratio == 0.5
