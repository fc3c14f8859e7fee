"""Thumbnails and the sheets they lie on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdclr.data.sources import ArraySource
from sdclr.decoding.decode import decode_image
from sdclr.errors import InputError
from sdclr.reporting.thumbnails import SheetPlan, shrink, write_sheets


@pytest.mark.parametrize(("shape", "wanted"), [((200, 100), (100, 50)), ((30, 40), (30, 40)), ((3, 900), (1, 100))])
def test_shrinking_keeps_the_shape_and_never_enlarges(shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert shrink(np.zeros((*shape, 3), np.uint8), 100).shape == (*wanted, 3)


def test_cells_fit_their_sheet(tmp_path: Path, told: Any) -> None:
    source = ArraySource(np.full((7, 20, 12, 3), 255, np.uint8), name="white")
    plan = SheetPlan(rows=np.arange(7), size=16, folder=tmp_path, prefix="s-", across=2)
    made = write_sheets(source, plan)
    assert made.cells == [16, 16]
    assert made.sizes.tolist() == [[10, 16]] * 7
    assert [decode_image(tmp_path / name, image_id=name).shape for name in made.sheets] == [(32, 32, 3), (32, 32, 3)]
    assert told.counts() == [(4, 7), (7, 7)]


def test_pictures_do_not_bleed_into_each_other(tmp_path: Path) -> None:
    images = np.zeros((4, 16, 16, 3), np.uint8)
    images[[0, 3]] = 255
    plan = SheetPlan(rows=np.arange(4), size=16, folder=tmp_path, prefix="s-", across=2)
    (name,) = write_sheets(ArraySource(images, name="board"), plan).sheets
    board = decode_image(tmp_path / name, image_id=name)
    assert board[:16, :16].min() >= 253
    assert board[:16, 16:].max() <= 2


class _Gone(ArraySource):
    def image(self, index: int, *, min_side: int | None = None) -> np.ndarray:  # noqa: ARG002  # of a source
        raise InputError(f"{self.name}: went away at {index}")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_goes_away_ends_it_in_one_line(tmp_path: Path, workers: int) -> None:
    source = _Gone(np.zeros((3, 8, 8, 3), np.uint8), name="disk")
    plan = SheetPlan(rows=np.arange(3), size=16, folder=tmp_path, prefix="s-")
    with pytest.raises(InputError, match=r"^disk: went away at 0$"):
        write_sheets(source, plan, workers=workers)
