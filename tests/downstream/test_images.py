"""Labeled images and their batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdclr.data.sources import ArraySource, FolderSource
from sdclr.downstream.images import Batches, LabeledImages, class_balanced, labeled_images
from sdclr.errors import InputError
from sdclr.loading import batches as in_memory
from sdclr.loading import streaming
from sdclr.loading.batches import ResidentLoader
from sdclr.loading.streaming import StreamLoader
from sdclr.views.parameters import ViewConfig, draw_views

CPU = torch.device("cpu")
AS_THEY_ARE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0, "jitter": 0, "gray": 0, "blur": 0}


def colored(count: int, side: int) -> ArraySource:
    """Images of one color each, which tells their label: 10 times it."""
    labels = np.arange(count) % 5 - 1
    images = np.broadcast_to((10 * (labels + 1)).astype(np.uint8)[:, None, None, None], (count, side, side, 3))
    return ArraySource(images.copy(), labels=labels)


def opened(source: ArraySource, tmp_path: Path) -> LabeledImages:
    return labeled_images(source, device=CPU, listed_in=tmp_path / "bad.csv")


@pytest.mark.parametrize(("side", "held"), [(8, True), (100, False)])
@pytest.mark.parametrize("balanced", [False, True])
def test_views_come_with_their_labels(tmp_path: Path, side: int, *, held: bool, balanced: bool) -> None:
    images = opened(colored(50, side), tmp_path)
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


@pytest.mark.parametrize("side", [8, 100])
def test_one_view_is_drawn_and_it_is_the_first_of_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, side, side, 3), dtype=np.uint8)
    images = opened(ArraySource(pixels, labels=np.arange(20) % 4), tmp_path)
    views, drawn = ViewConfig(image_size=8), []
    pairs = list(
        (ResidentLoader if side == 8 else StreamLoader)(
            images.source if images.pixels is None else images.pixels, views, seed=3, batch_size=5
        ).epoch(1)
    )

    def counted(*args: Any, view: int, **how: Any) -> Any:
        drawn.append(view)
        return draw_views(*args, view=view, **how)

    for module in (in_memory, streaming):
        monkeypatch.setattr(module, "draw_views", counted)
    alone = [batch for batch, _ in Batches(images, views, 3, 5, CPU, 0).epoch(1)]
    assert set(drawn) == {0}
    for batch, pair in zip(alone, pairs, strict=True):
        torch.testing.assert_close(batch, pair.view1, rtol=0, atol=1e-6)


def test_large_photos_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for number in range(12):
        file = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((120, 100)).save(file)
    images = labeled_images(FolderSource(tmp_path / "photos"), device=CPU, listed_in=tmp_path / "bad.csv")
    plain = Batches(images, ViewConfig(image_size=8), 3, 4, CPU, 0, cache_gb=0)
    kept = Batches(images, ViewConfig(image_size=8), 3, 4, CPU, 0)
    wanted = [list(plain.epoch(epoch, balanced=epoch == 1)) for epoch in range(3)]
    assert all(same(one, two) for one, two in zip(kept.epoch(0), wanted[0], strict=True))
    seen: list[int] = []
    image = FolderSource.image

    def counted(self: FolderSource, index: int, **how: Any) -> Any:
        seen.append(index)
        return image(self, index, **how)

    monkeypatch.setattr(FolderSource, "image", counted)
    for epoch in (1, 2):
        batches = kept.epoch(epoch, balanced=epoch == 1)
        assert all(same(one, two) for one, two in zip(batches, wanted[epoch], strict=True))
    assert seen == []


def same(one: tuple[torch.Tensor, torch.Tensor], two: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


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
    unlabeled = ArraySource(np.zeros((4, 8, 8, 3), dtype=np.uint8), labels=[-1] * 4)
    with pytest.raises(InputError, match="array has no labels"):
        opened(unlabeled, tmp_path)


def test_a_subset_may_name_an_image_twice(tmp_path: Path) -> None:
    images = opened(colored(20, 8), tmp_path)
    twice = images.subset(np.array([5, 0, 5]))
    assert twice.labels.tolist() == images.labels[[5, 0, 5]].tolist()
    assert torch.equal(twice.pixels[0], twice.pixels[2])
