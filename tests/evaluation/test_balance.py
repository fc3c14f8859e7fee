import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import recall_score

from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance, balance, per_class_accuracy, summarize

TEN = {"many": [3, 1, 0, 9], "medium": [2, 5, 4], "few": [6, 8, 7]}


def test_balance_by_hand():
    accuracy = np.array([0.9, 0.7, 0.5, 0.8, 0.6, 0.4, 0.1, 0.3, 0.2, 0.6])
    result = balance(accuracy, TEN)
    assert result == pytest.approx(
        (0.75, 0.5, 0.2, 0.51, math.sqrt(((0.75 - 29 / 60) ** 2 + (0.5 - 29 / 60) ** 2 + (0.2 - 29 / 60) ** 2) / 3))
    )


def test_std_agrees_with_the_published_single_split_rows():
    """ImageNet-100-LT has one split, so Std follows from the groups (Tables 4 and 5 of the paper)."""
    for groups, published in [
        ((69.54, 63.71, 59.69), 4.04),
        ((70.10, 65.04, 60.92), 3.75),
        ((48.36, 39.00, 35.23), 5.52),
    ]:
        result = balance(groups, {"many": [0], "medium": [1], "few": [2]})
        assert result.std == pytest.approx(published, abs=0.0051)


def test_all_is_the_mean_over_classes_not_over_groups():
    result = balance([1.0, 1.0, 1.0, 0.0, 0.0], {"many": [0, 1, 2], "medium": [3], "few": [4]})
    assert result.all == pytest.approx(0.6)


def test_an_empty_group_is_nan_and_left_out_of_std():
    result = balance([0.8, 0.6], {"many": [0], "medium": np.array([], dtype=np.int64), "few": [1]})
    assert math.isnan(result.medium)
    assert result.std == pytest.approx(0.1)


def test_one_group_has_no_spread():
    result = balance([0.8, 0.6], {"many": [0, 1], "medium": [], "few": []})
    assert math.isnan(result.std)
    assert result.all == pytest.approx(0.7)


def test_classes_without_test_images_are_left_out():
    result = balance([0.8, math.nan, 0.4, math.nan], {"many": [0, 1], "medium": [2], "few": [3]})
    assert result.many == pytest.approx(0.8)
    assert math.isnan(result.few)
    assert result.all == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("groups", "message"),
    [({"many": [0], "medium": [1]}, "no 'few'"), ({"many": [0], "medium": [1], "few": [2]}, "names class 2")],
)
def test_groups_that_do_not_fit(groups, message):
    with pytest.raises(InputError, match=message):
        balance([0.5, 0.5], groups)


@given(st.data())
def test_per_class_accuracy_is_recall(data):
    count = data.draw(st.integers(1, 60))
    ids = hnp.arrays(np.int64, count, elements=st.integers(0, 6))
    predictions, labels = data.draw(ids), data.draw(ids)
    ours = per_class_accuracy(predictions, labels, 7)
    theirs = recall_score(labels, predictions, labels=np.arange(7), average=None, zero_division=np.nan)
    np.testing.assert_allclose(ours, theirs)


@given(st.integers(1, 30), st.integers(2, 6), st.randoms(use_true_random=False))
def test_all_is_plain_accuracy_on_a_balanced_test_set(each, classes, random):
    labels = np.repeat(np.arange(classes), each)
    predictions = np.array([random.randrange(classes) for _ in labels])
    groups = {"many": np.arange(1), "medium": np.arange(1, 2), "few": np.arange(2, classes)}
    result = balance(per_class_accuracy(predictions, labels, classes), groups)
    assert result.all == pytest.approx((predictions == labels).mean())


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [([0, 1], [0], "differ"), ([0, 1], [0, 3], "label 3"), ([0, 1], [0, -1], "label -1"), ([[0]], [[0]], "differ")],
)
def test_per_class_accuracy_names_what_is_wrong(predictions, labels, message):
    with pytest.raises(InputError, match=message):
        per_class_accuracy(predictions, labels, 3)


def test_summarize_is_the_mean_and_sample_deviation():
    splits = [Balance(0.9, 0.6, 0.3, 0.6, 0.2), Balance(0.7, 0.6, 0.5, 0.6, 0.1), Balance(0.8, 0.6, math.nan, 0.7, 0.1)]
    summary = summarize(splits)
    assert summary.splits == 3
    assert summary.mean == pytest.approx((0.8, 0.6, 0.4, 1.9 / 3, 0.4 / 3))
    assert summary.std[:3] == pytest.approx((0.1, 0.0, math.sqrt(0.02)))


def test_one_split_has_no_deviation():
    only = Balance(0.9, 0.6, 0.3, 0.6, 0.2)
    summary = summarize([only])
    assert summary.mean == only
    assert all(math.isnan(value) for value in summary.std)


def test_no_splits():
    with pytest.raises(InputError, match="no splits"):
        summarize([])
