"""The paper's numbers, as they stand in it."""

import math

import numpy as np
import pytest

from sdclr.paper.numbers import MEASURES, PAPER, Key, Reported, reported


@pytest.mark.parametrize(
    ("key", "measure", "number"),
    [
        (("cifar10_lt", "long_tail", "SDCLR", "linear"), "all", (82.00, 0.68)),
        (("cifar10_lt", "long_tail", "SimCLR", "few_shot"), "few", (54.21, 10.24)),
        (("cifar100_lt", "long_tail", "SDCLR", "few_shot"), "std", (3.98, 0.98)),
        (("imagenet100_lt", "long_tail", "SDCLR", "linear"), "many", (70.10, None)),
        (("cifar10_lt", "balanced", "SimCLR", "linear"), "all", (80.88, None)),
        (("cifar100_lt", "balanced", "SimCLR", "few_shot"), "few", (24.01, None)),
        (("imagenet_lt_exp", "long_tail", "SimCLR", "few_shot"), "all", (32.12, None)),
        (("imagenet100_lt", "balanced", "SimCLR", "linear"), "medium", (66.33, None)),
        (("cifar100", "full", "SDCLR", "linear"), "std_classes", (14.82, None)),
        (("cifar100_lt", "long_tail", "Dropout", "linear"), "all", (21.99, 0.35)),
        (("cifar100_lt", "long_tail", "MoCo v2", "few_shot"), "std", (6.67, None)),
        (("cifar100_lt", "long_tail", "RIDE from SDCLR", "fine_tuned"), "all", (50.56, None)),
    ],
)
def test_numbers_stand_where_the_paper_has_them(key, measure, number):
    assert reported(*key)[measure] == Reported(*number)


def test_what_the_paper_does_not_report_is_absent():
    assert reported("cifar10_lt", "long_tail", "MoCo v2", "linear") == {}
    assert "std" not in reported("cifar10_lt", "balanced", "SimCLR", "linear")


def test_every_row_is_a_table_of_accuracies():
    assert len(PAPER) == 12 + 14 + 4 + 5 + 3
    for key, row in PAPER.items():
        assert isinstance(key, Key)
        assert set(row) <= set(MEASURES)
        for number in row.values():
            assert 0 < number.mean < 100
            assert number.std is None or 0 < number.std < 20


def test_all_lies_where_its_groups_put_it():
    """A slip of the pen in a number would show: All is the mean of the groups, weighted by their classes."""
    weights = {"cifar10_lt": (4, 3, 3), "cifar100_lt": (34, 33, 33), "imagenet100_lt": (39, 48, 13)}
    checked = 0
    for key, row in PAPER.items():
        if key.dataset in weights and "many" in row:
            mean = np.average([row[name].mean for name in ("many", "medium", "few")], weights=weights[key.dataset])
            assert math.isclose(mean, row["all"].mean, abs_tol=0.05), key
            checked += 1
    assert checked == 18
