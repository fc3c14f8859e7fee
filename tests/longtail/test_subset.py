"""Subsets by configuration: which images they hold, and what cannot be drawn."""

import numpy as np
import pytest

from sdclr.data.sources import ArraySource, SubsetSource, open_source
from sdclr.errors import InputError
from sdclr.longtail.splits import long_tail_counts
from sdclr.longtail.subset import SubsetConfig, select


@pytest.fixture
def source():
    labels = np.repeat(np.arange(4), 50)
    return ArraySource(np.zeros((200, 2, 2, 3), dtype=np.uint8), labels, name="squares")


def test_all_is_the_source_itself(source):
    assert select(source, SubsetConfig()) is source


def test_long_tail_and_balanced_control(source):
    tail = select(source, SubsetConfig(kind="long-tail", imbalance=10, seed=2))
    control = select(source, SubsetConfig(kind="balanced", imbalance=10, seed=2))
    counts = np.bincount(tail.labels, minlength=4)
    assert sorted(counts, reverse=True) == long_tail_counts(4, 50, 10).tolist()
    assert np.bincount(control.labels).tolist() == [counts.sum() // 4] * 4
    assert tail.name == "squares-long-tail-2"


def test_the_holdout_is_in_no_subset(source):
    everything = select(source, SubsetConfig(holdout=40))
    assert np.bincount(everything.labels).tolist() == [40] * 4
    tail = select(source, SubsetConfig(kind="long-tail", imbalance=4, holdout=40))
    assert set(tail.ids) <= set(everything.ids)
    assert np.bincount(tail.labels).max() == 40  # as many as every class still has


def test_a_published_list_is_used_as_it_is(source, tmp_path):
    np.save(tmp_path / "list.npy", np.array([7, 3, 150]))
    subset = select(source, SubsetConfig(indices=str(tmp_path / "list.npy")))
    assert isinstance(subset, SubsetSource)
    assert subset.indices.tolist() == [7, 3, 150]
    with pytest.raises(InputError, match="finished subset"):
        SubsetConfig(indices="list.npy", kind="balanced")


def test_drawing_needs_labels():
    unlabeled = ArraySource(np.zeros((9, 2, 2, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="has no labels"):
        select(unlabeled, SubsetConfig(kind="long-tail"))


def test_cifar10_lt_has_the_published_totals(cifar10_dir):
    train = open_source(cifar10_dir, split="train")
    drawn = {
        kind: select(train, SubsetConfig(kind=kind, max_count=4500, imbalance=100, holdout=5000, seed=1))
        for kind in ("long-tail", "balanced", "few-shot")
    }
    assert {kind: len(source) for kind, source in drawn.items()} == {
        "long-tail": 11165,
        "balanced": 11160,
        "few-shot": 450,
    }
    assert set(drawn["few-shot"].ids) <= set(drawn["long-tail"].ids)
