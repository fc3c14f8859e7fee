"""Tables against figures made by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdclr.paper.experiments import Experiment, Row
from sdclr.paper.numbers import Reported, reported
from sdclr.paper.results import write_results
from sdclr.paper.tables import Comparison, compared_table, comparisons, contrast_table, over_splits, tidy_table

MEASURES = ("many", "medium", "few", "std", "all")
DASHES = ("\u2013",) * 3
number = st.floats(0, 100)


def result(job, **figures):
    row = {
        "task": job.name,
        "dataset": job.dataset,
        "split": job.split,
        "subset": "long_tail",
        "method": job.method,
        "scale": "cpu",
        "branch": "dense",
        "probe": "linear",
        "status": "finished",
        "std_classes": 1.5,
    }
    return row | dict.fromkeys(MEASURES) | figures


@pytest.fixture
def made(tiny):
    """Two methods over two splits; SDCLR's second split is not done."""
    from sdclr.training.config import DamageConfig

    arms = {"SimCLR": DamageConfig(kind="none"), "SDCLR": DamageConfig(ratio=0.3)}
    jobs = {name: tuple(tiny.tiny_task(split, damage=damage) for split in (1, 2)) for name, damage in arms.items()}
    rows = tuple(
        Row(
            data="CIFAR-10-LT",
            label=name,
            probe="linear",
            jobs=jobs[name],
            paper=reported("cifar10_lt", "long_tail", name, "linear"),
        )
        for name in arms
    )
    experiment = Experiment(name="table4", title="Table 4", measures=MEASURES, rows=rows)
    results = [
        result(jobs["SimCLR"][0], many=78.0, all=75.0),
        result(jobs["SimCLR"][1], many=80.0, all=77.0),
        result(jobs["SDCLR"][0], many=81.0, all=74.0),
        result(jobs["SDCLR"][1]) | {"status": "unfinished"},
    ]
    return experiment, results


def test_mean_and_deviation_by_hand():
    assert over_splits([1.0, 2.0, 4.0]) == Reported(pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert over_splits([None, 5.0, math.nan]) == Reported(5.0, None)
    assert over_splits([None]) is None


@pytest.mark.parametrize(
    ("ours", "paper", "within"),
    [
        (Reported(10.0, 1.0), Reported(13.0, 2.0), True),  # on the edge
        (Reported(16.0, 1.0), Reported(13.0, 2.0), True),
        (Reported(9.99, 1.0), Reported(13.0, 2.0), False),
        (Reported(16.01, 1.0), Reported(13.0, 2.0), False),
        (Reported(75.1, 0.1), Reported(75.4, 0.2), True),  # 0.3 against 0.1 + 0.2, which floats make unequal
        (Reported(13.0, None), Reported(13.0, 2.0), None),
        (Reported(13.0, 1.0), Reported(13.0, None), None),
        (None, Reported(13.0, 2.0), None),
        (Reported(13.0, 1.0), None, None),
    ],
)
def test_within_both_deviations(ours, paper, within):
    assert Comparison(ours, paper).within is within


@given(number, st.floats(0, 10), number, st.floats(0, 10))
def test_within_is_that_the_two_intervals_touch(mean, std, other, other_std):
    found = Comparison(Reported(mean, std), Reported(other, other_std)).within
    gap = max(mean - std - (other + other_std), other - other_std - (mean + std))
    assert found == (gap <= 0) or abs(gap) < 1e-6
    assert found == Comparison(Reported(other, other_std), Reported(mean, std)).within


def test_ours_the_papers_and_the_difference(made):
    experiment, results = made
    cells = comparisons(experiment.rows[0], results, MEASURES)
    assert cells["many"].ours == Reported(79.0, pytest.approx(math.sqrt(2)))
    assert cells["few"].ours is None
    table = compared_table(experiment, results)
    lines = {row[0]: row[1:] for row in table.rows}
    assert lines["CIFAR-10-LT, SimCLR: ours, 2 splits"] == (
        "79.00 ± 1.41",
        "\u2013",
        "\u2013",
        "\u2013",
        "76.00 ± 1.41",
    )
    assert lines["CIFAR-10-LT, SimCLR: paper"][4] == "75.55 ± 0.66"
    assert lines["CIFAR-10-LT, SimCLR: difference"] == ("+0.82 within", *DASHES, "+0.45 within")
    assert lines["CIFAR-10-LT, SDCLR: ours, 1 split"][0] == "81.00"
    assert lines["CIFAR-10-LT, SDCLR: difference"][4] == "\u22128.00 \u2013"
    assert "at most our deviation and the paper's added" in table.note


def test_methods_differ_split_by_split(made):
    experiment, results = made
    lines = {row[0]: row[1:] for row in contrast_table(experiment, results).rows}
    assert lines["CIFAR-10-LT, SDCLR \u2212 SimCLR: ours, 1 split"] == (
        "+3.00",
        "\u2013",
        "\u2013",
        "\u2013",
        "\u22121.00",
    )
    assert lines["CIFAR-10-LT, SDCLR \u2212 SimCLR: paper"] == ("+8.26", "+5.61", "+4.86", "\u22120.07", "+6.45")
    assert contrast_table(experiment, results[:2]) is None


def test_what_is_not_there_says_why(made):
    experiment, _ = made
    missing = {job.name: "no data (no such folder)" for job in experiment.rows[1].jobs}
    names = [row[0] for row in compared_table(experiment, [], missing).rows]
    assert names == [
        "CIFAR-10-LT, SimCLR: to do",
        "CIFAR-10-LT, SimCLR: paper",
        "CIFAR-10-LT, SDCLR: no data (no such folder)",
        "CIFAR-10-LT, SDCLR: paper",
    ]


def test_the_tidy_table_for_reports(made, tmp_path):
    experiment, results = made
    write_results(results, tmp_path)
    table = tidy_table(tmp_path)
    assert [row[0] for row in table.rows] == [row["task"] for row in results[:3]]
    assert table.rows[0][1:3] == ("dense", "78.00")
    assert table.columns[-1] == "Std over classes"
    del experiment
