"""How the benchmark of near-duplicates makes copies and counts."""

import importlib

import numpy as np
import pytest

from sdclr.data.sources import ArraySource


@pytest.fixture(scope="module")
def duplicates(_scripts_import_each_other):
    return importlib.import_module("duplicates")


@pytest.fixture(scope="module")
def made(duplicates):
    images = np.random.default_rng(0).integers(0, 256, (60, 40, 30, 3), dtype=np.uint8)
    names = ("dress", "hat")
    return duplicates.collection(ArraySource(images, np.arange(60) % 2, classes=names), "held out", 100, 2, 0)


def test_each_copied_image_is_copied_once_by_one_change(duplicates, made):
    changes = list(duplicates.CHANGES)
    copies = made.original >= 0
    assert copies.sum() == 2 * len(changes)
    assert len(set(made.original[copies].tolist())) == copies.sum()
    assert sorted(made.change[i] for i in np.flatnonzero(copies)) == sorted(changes * 2)
    assert len(made.source) == 30 + copies.sum()  # the images of one class of two


def test_every_change_changes_the_image_and_keeps_its_size_or_says_so(made):
    for row in np.flatnonzero(made.original >= 0).tolist():
        image, copy = made.source.images[made.original[row]], made.source.images[row]
        assert copy.dtype == np.uint8
        assert copy.shape != image.shape or (copy != image).any(), made.change[row]


def test_right_and_wrong_pairs_are_counted(duplicates, made):
    copies = np.flatnonzero(made.original >= 0).tolist()
    right = {(int(made.original[row]), row) for row in copies}
    ids = made.source.ids
    result = duplicates.judged(made, duplicates.Found(right | {(0, 1), (2, 3)}), {frozenset((ids[2], ids[3]))})
    assert result["mean"] == 1
    assert (result["right"], result["wrong"]) == (len(copies) + 1, [(0, 1)])
    assert duplicates.judged(made, duplicates.Found(set()), set())["mean"] == 0


def test_pairs_that_were_seen_follow_from_each_other(duplicates):
    seen = duplicates.read_seen()
    for pair in seen:
        for other in seen:
            if len(pair & other) == 1:
                assert pair ^ other in seen
