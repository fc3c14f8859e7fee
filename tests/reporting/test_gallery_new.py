"""The page of a collection that has grown, and of images that are compared with older ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import ArraySource
from sdclr.reporting.gallery import GalleryEntries, KindGroup, NearestOld, write_gallery

COUNT = 12
FIRST, SECOND = 1_700_000_000, 1_700_090_000
"""When images came after the first call, in seconds."""
OLD = ["a #1.png", "plane.tif", "row 7"]
"""A file that a browser shows, one that it cannot show, and an image without a file."""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown")
    (folder / "the old").mkdir()
    files = [str(folder / "the old" / name) for name in OLD[:2]]
    for file in files:
        Image.new("RGB", (40, 20), (200, 30, 30)).save(file)
    ids = [f"{number}.png" for number in range(COUNT)]
    rank = np.arange(1, COUNT + 1)
    rank[-1] = 0
    distances = np.tile(np.array([0.125, 0.25, 0.5], dtype=np.float32), (COUNT, 1))
    nearest = np.tile(np.arange(3), (COUNT, 1))
    distances[-1], nearest[-1] = np.nan, -1
    ranked = rank > 0
    entries = GalleryEntries(
        ids=ids,
        columns={"against_1": np.where(ranked, np.linspace(1, 0.1, COUNT), np.nan).astype(np.float32)},
        rarity=np.where(ranked, np.linspace(1, 0.1, COUNT), np.nan).astype(np.float32),
        rank=rank,
        percentile=np.where(ranked, np.linspace(100, 1, COUNT), np.nan).astype(np.float32),
        kinds=np.where(ranked, 0, -1),
        groups=[KindGroup(kind=0, size=COUNT - 1, separation=1.0, medoid=0, rare=False)],
        odd=np.zeros(0, dtype=np.int64),
        bad={ids[-1]: "truncated"},
        score="against",
        since=np.array([0, SECOND, FIRST, 0, SECOND, *[0] * (COUNT - 5)]),
        old=NearestOld(OLD, [*files, None], nearest, distances),
    )
    source = ArraySource(np.zeros((COUNT, 16, 16, 3), dtype=np.uint8), ids=ids, name="made")
    return write_gallery(folder / "page" / "rare.html", entries, source, title="Grown")


def test_only_what_came_last_has_a_badge_and_says_so_to_screen_readers(page: Any) -> None:
    badges = page.locator(".tile").evaluate_all("tiles => tiles.map((tile) => !tile.querySelector('.new').hidden)")
    assert badges == [row in (1, 4) for row in range(COUNT - 1)]
    assert page.locator(".tile .new:visible").count() == 2
    assert page.get_attribute("#tile-1", "aria-label") == "1.png, rank 2, new"
    assert page.get_attribute("#tile-2", "aria-label") == "2.png, rank 3"


def test_new_since_lists_all_that_came_from_then_on_and_outlives_a_reload(page: Any) -> None:
    assert page.locator("#since option").evaluate_all("found => found.map((option) => option.value)") == [
        "",
        str(SECOND),
        str(FIRST),
    ]
    assert "(3 images)" in page.locator("#since option").nth(2).inner_text()
    page.focus("#since")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#count") == "2 of 11 images"
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#count") == "3 of 11 images"
    page.evaluate("writeAddress()")  # what would happen soon
    page.reload()
    page.wait_for_selector(".tile")
    assert page.inner_text("#count") == "3 of 11 images"
    assert page.input_value("#since") == str(FIRST)
    page.click("#reset")
    assert page.inner_text("#count") == "11 images"


def test_the_nearest_old_images_are_links_and_those_that_cannot_be_shown_are_named(page: Any) -> None:
    page.click("#tile-3")
    page.wait_for_selector("#detail .old img")
    figures = page.locator("#detail .old figure")
    assert [text.split("\n") for text in figures.all_inner_texts()] == [
        ["0.125"],
        ["plane.tif", "0.25"],
        ["row 7", "0.5"],
    ]
    links = page.locator("#detail .old a")
    assert links.evaluate_all("found => found.map((link) => link.getAttribute('href'))") == [
        "../the%20old/a%20%231.png",
        "../the%20old/plane.tif",
    ]
    assert page.evaluate("document.querySelector('#detail .old img').naturalWidth") == 40
    heights = [figures.nth(place).bounding_box()["height"] for place in range(3)]
    assert max(heights) - min(heights) < 2
    links.first.focus()
    assert page.evaluate("document.activeElement.title") == "Open a #1.png"
    assert page.evaluate("record(3).nearest_old") == "a #1.png"
