"""Labelled images and their batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr.data.sources import ArraySource
from sdclr.data.views import ViewConfig
from sdclr.downstream.images import Batches, LabelledImages, class_balanced, labelled_images
from sdclr.errors import InputError

CPU = torch.device("cpu")
AS_THEY_ARE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0, "jitter": 0, "grey": 0, "blur": 0}


def coloured(count: int, side: int) -> ArraySource:
    """Images of one colour each, which tells their label: 10 times it."""
    labels = np.arange(count) % 5 - 1
    images = np.broadcast_to((10 * (labels + 1)).astype(np.uint8)[:, None, None, None], (count, side, side, 3))
    return ArraySource(images.copy(), labels=labels)


def opened(source: ArraySource, tmp_path: Path) -> LabelledImages:
    return labelled_images(source, device=CPU, listed_in=tmp_path / "bad.csv")


@pytest.mark.parametrize(("side", "held"), [(8, True), (100, False)])
@pytest.mark.parametrize("balanced", [False, True])
def test_views_come_with_their_labels(tmp_path: Path, side: int, *, held: bool, balanced: bool) -> None:
    images = opened(coloured(50, side), tmp_path)
    assert (images.pixels is not None) == held
    assert len(images) == 40  # the label of every fifth is unknown
    batches = Batches(images, ViewConfig(image_size=8, **AS_THEY_ARE), 3, 8, CPU, 0)
    seen = list(batches.epoch(2, balanced=balanced))
    assert len(seen) == batches.steps_per_epoch == 5
    for views, labels in seen:
        assert views.shape == (8, 3, 8, 8)
        torch.testing.assert_close((255 * views).amax(dim=(1, 2, 3)), 10.0 * (labels + 1), atol=0.6, rtol=0)
    rest = list(batches.epoch(2, 3, balanced=balanced))
    assert [labels.tolist() for _, labels in rest] == [labels.tolist() for _, labels in seen[3:]]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(rest, seen[3:], strict=True))
    other = list(batches.epoch(3, balanced=balanced))
    assert any(a.tolist() != b.tolist() for (_, a), (_, b) in zip(other, seen, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 1000))
def test_balanced_draws_are_a_function_of_seed_and_epoch(seed: int, epoch: int) -> None:
    labels = np.repeat([3, 0, 7], [90, 9, 1])
    drawn = class_balanced(labels, seed=seed, epoch=epoch)
    assert np.array_equal(drawn, class_balanced(labels, seed=seed, epoch=epoch))
    assert not np.array_equal(drawn, class_balanced(labels, seed=seed, epoch=epoch + 1))
    assert drawn.shape == labels.shape
    assert ((drawn >= 0) & (drawn < 100)).all()


def test_balanced_draws_take_every_class_and_every_image_of_it_equally_often() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    drawn = np.concatenate([class_balanced(labels, seed=0, epoch=epoch) for epoch in range(300)])
    shares = np.bincount(labels[drawn]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    times = np.bincount(drawn, minlength=100)
    for label, size in enumerate([60, 30, 10]):
        np.testing.assert_allclose(times[labels == label] / len(drawn), 1 / 3 / size, rtol=0.4)


def test_images_without_labels_and_too_many_bad_ones_are_refused(tmp_path: Path) -> None:
    unlabelled = ArraySource(np.zeros((4, 8, 8, 3), dtype=np.uint8), labels=[-1] * 4)
    with pytest.raises(InputError, match="array has no labels"):
        opened(unlabelled, tmp_path)


def test_a_subset_may_name_an_image_twice(tmp_path: Path) -> None:
    images = opened(coloured(20, 8), tmp_path)
    twice = images.subset(np.array([5, 0, 5]))
    assert twice.labels.tolist() == images.labels[[5, 0, 5]].tolist()
    assert torch.equal(twice.pixels[0], twice.pixels[2])
