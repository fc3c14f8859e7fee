"""Sheets of pictures: where each picture lies, which are chosen, and that the views are those of training."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdclr.data.sources import ArraySource
from sdclr.errors import BadImageError, InputError
from sdclr.loading.batches import ResidentLoader
from sdclr.reporting.sheets import GAP, class_sheet, contact_sheet, example_sheet, view_sheet
from sdclr.views.parameters import ViewConfig


def flat(values: Sequence[int], side: int = 8) -> NDArray[np.uint8]:
    """Pictures of one gray each, (N, side, side, 3)."""
    return np.broadcast_to(np.array(values, dtype=np.uint8)[:, None, None, None], (len(values), side, side, 3)).copy()


class Broken(ArraySource):
    """Some images cannot be decoded."""

    def __init__(self, images: NDArray[np.uint8], bad: set[int], **kwargs: object) -> None:
        super().__init__(images, **kwargs)
        self.bad = bad

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        if index in self.bad:
            raise BadImageError(self.ids[index], "truncated")
        return super().image(index, min_side=min_side)


@given(st.integers(1, 7), st.integers(1, 9))
def test_each_picture_lies_in_its_cell_and_gaps_are_see_through(count: int, columns: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 2, 3, 3), dtype=np.uint8)
    sheet = np.asarray(contact_sheet(images, columns=columns))
    used = min(columns, count)
    assert sheet.shape[1] == used * 3 + (used - 1) * GAP
    opaque = 0
    for number, image in enumerate(images):
        top, left = (number // used) * (2 + GAP), (number % used) * (3 + GAP)
        cell = sheet[top : top + 2, left : left + 3]
        np.testing.assert_array_equal(cell[..., :3], image)
        assert (cell[..., 3] == 255).all()
        opaque += cell[..., 3].size
    assert int((sheet[..., 3] > 0).sum()) == opaque


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 2, 2, 3), dtype=np.uint8),
        np.zeros((1, 2, 2), dtype=np.uint8),
        np.zeros((1, 2, 2, 3), dtype=np.float32),
    ],
)
def test_what_is_no_picture_is_refused(images: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="uint8 images"):
        contact_sheet(images, columns=2)


def test_a_sheet_needs_a_column() -> None:
    with pytest.raises(InputError, match="1 or more columns"):
        contact_sheet(flat([1]), columns=0)


def grays(sheet: NDArray[np.uint8], side: int) -> list[int]:
    """The gray of each cell of a one-row sheet with gaps of four pixels."""
    return [int(sheet[side // 2, left, 0]) for left in range(side // 2, sheet.shape[1], side + 4)]


def test_classes_come_from_the_most_frequent_to_the_rarest_with_their_own_images() -> None:
    labels = [0] * 2 + [1] * 5 + [2] * 1 + [-1] * 9
    source = ArraySource(flat([10] * 2 + [20] * 5 + [30] + [99] * 9), labels, classes=("a", "b", "c", "empty"))
    entries = class_sheet(source, per_class=3, side=16)
    assert [(entry.number, entry.name, entry.images) for entry in entries] == [(1, "b", 5), (0, "a", 2), (2, "c", 1)]
    assert [grays(np.asarray(entry.sheet), 16) for entry in entries] == [[20] * 3, [10] * 2, [30]]


def test_of_many_classes_the_largest_and_the_rarest_are_shown() -> None:
    labels = np.repeat(np.arange(10), np.arange(10, 0, -1))
    source = ArraySource(flat(labels.tolist()), labels)
    assert [entry.name for entry in class_sheet(source, per_class=1, classes=5)] == ["0", "1", "7", "8", "9"]
    assert len(class_sheet(source, per_class=1)) == 10


def test_undecodable_images_are_passed_over() -> None:
    source = Broken(flat([1, 2, 3, 4]), {0, 2, 3}, labels=[0, 0, 1, 1])
    first, second = class_sheet(source, per_class=2, side=8)
    assert grays(np.asarray(first.sheet), 8) == [2]
    assert second.sheet is None
    assert grays(np.asarray(example_sheet(source, count=4, side=8)), 8) == [2]
    everything = Broken(flat([1, 2]), {0, 1})
    assert example_sheet(everything) is None
    assert view_sheet(everything, ViewConfig(image_size=8)) is None


def test_examples_by_class_need_labels() -> None:
    with pytest.raises(InputError, match="has no labels"):
        class_sheet(ArraySource(flat([1])))


def test_examples_are_distinct_and_the_same_at_every_call() -> None:
    source = ArraySource(flat(list(range(50))))
    first, second = (np.asarray(example_sheet(source, count=10, columns=10, side=8)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(grays(first, 8))) == 10


def test_pictures_that_are_not_square_are_cut_to_their_center() -> None:
    image = np.zeros((1, 8, 24, 3), dtype=np.uint8)
    image[:, :, 8:16] = 200
    sheet = np.asarray(example_sheet(ArraySource(image), side=16))
    assert sheet.shape == (16, 16, 4)
    assert (sheet[..., :3] == 200).all()


@pytest.mark.parametrize("config", [ViewConfig(image_size=8), ViewConfig(image_size=16, blur=1.0)])
def test_views_are_those_that_training_draws(config: ViewConfig) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    side, scale = 16, 16 // config.image_size
    sheet = np.asarray(view_sheet(ArraySource(images), config, seed=7, count=3, views=4, side=side))
    loader = ResidentLoader(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), config, seed=7, batch_size=3)
    for epoch in (0, 1):
        (batch,) = loader.epoch(epoch)
        for view, drawn in enumerate((batch.view1, batch.view2)):
            for index, picture in zip(batch.indices.tolist(), drawn, strict=True):
                top, left = index * (side + 4), (1 + 2 * epoch + view) * (side + 4)
                cell = sheet[top : top + side : scale, left : left + side : scale, :3]
                expected = (picture.permute(1, 2, 0) * 255).round().numpy()
                assert np.abs(cell.astype(int) - expected).max() <= 1
    originals = sheet[:side, :side, :3]
    np.testing.assert_array_equal(originals, images[0].repeat(2, 0).repeat(2, 1))


def test_a_sheet_of_views_needs_positive_numbers() -> None:
    with pytest.raises(InputError, match="1 or more images and views"):
        view_sheet(ArraySource(flat([1])), ViewConfig(), count=0)


def test_fewer_images_than_asked_for_are_each_shown_once() -> None:
    sheet = view_sheet(ArraySource(flat([1, 2])), ViewConfig(image_size=8), count=6, views=1, side=8)
    assert sheet is not None
    assert sheet.height == 2 * 8 + 4
