"""The map on the page of rare images, in Chromium; and the page where things are missing."""

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import ArraySource
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

COUNT = 600  # as in conftest.py


def at(page: Any, row: int) -> tuple[float, float]:
    """Where the dot of a row is on the screen."""
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate(f"toPixels({row})")
    return box["x"] + x, box["y"] + y


def test_each_image_has_its_place(page: Any, entries: GalleryEntries) -> None:
    places = np.array(page.evaluate("Array.from(rows.map)")).reshape(-1, 2)
    positions = [list(entries.ids).index(image_id) for image_id in page.evaluate("rows.ids")]
    wanted = entries.projection[positions]
    for axis in range(2):
        assert np.corrcoef(places[:, axis], wanted[:, axis])[0, 1] > 0.9999
    assert np.ptp(places[:, 1]) == 65534  # the longer side
    assert np.ptp(places[:, 0]) == pytest.approx(65534 * 200 / 599, abs=2)  # in proportion


def test_a_dot_shows_its_image_and_opens_it(page: Any) -> None:
    page.evaluate("Object.assign(view, { zoom: 40, x: rows.map[400], y: rows.map[401] })")
    page.mouse.move(*at(page, 200))
    page.wait_for_selector("#map-tip:visible")
    title = page.evaluate("rows.ids[200]")
    assert page.inner_text("#map-tip p").startswith(title)
    before = page.evaluate("$('map').toDataURL()")
    page.mouse.click(*at(page, 200))
    assert page.inner_text("#detail .id") == title
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("$('map').toDataURL()") != before  # a ring around it


def test_the_nearest_dot_is_that_of_a_plain_search(page: Any) -> None:
    page.evaluate("zoomMap(4)")
    found = page.evaluate(
        """Array.from({ length: 200 }, (_, place) => {
          const pixel = [(place * 37) % mapSide(), (place * 91) % mapSide()];
          let [best, nearest] = [null, NEAR];
          for (let row = 0; row < rows.count; row += 1) {
            const [x, y] = toPixels(row);
            const far = Math.hypot(x - pixel[0], y - pixel[1]);
            if (hasPlace(row) && far < nearest - 1e-6) [best, nearest] = [row, far];
          }
          return [dotAt(pixel), best];
        })"""
    )
    assert [one for one, _ in found] == [other for _, other in found]
    assert len({one for one, _ in found}) > 10


def test_a_loop_lists_what_is_inside(page: Any) -> None:
    left, top, _, bottom = page.evaluate(
        "[...toPixels(0), ...toPixels(299)].map((value, place) => value + [-20, -5, 0, 0][place])"
    )
    box = page.locator("#map").bounding_box()
    corners = [(left, top), (left + 40, top), (left + 40, bottom), (left, bottom)]
    page.mouse.move(box["x"] + left, box["y"] + top)
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=6)
    page.mouse.up()
    assert page.inner_text("#shown-title") == "All images, in the area"
    inside = page.evaluate(
        f"""[...rows.ids.keys()].filter((row) => {{
          const [x, y] = toPixels(row);
          return x > {left} && x < {left + 40} && y > {top} && y < {bottom};
        }})"""
    )
    listed = page.evaluate("Array.from(shown)")
    assert len(set(inside) ^ set(listed)) <= 2  # at the edge
    assert 50 < len(listed) < 300
    page.click("#reset")
    assert page.inner_text("#count") == "599 images"


def test_the_map_by_keys(page: Any) -> None:
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.evaluate("state.active")
    assert first == 0
    page.keyboard.press("ArrowDown")
    below = page.evaluate("state.active")
    assert page.evaluate(f"rows.map[2 * {below} + 1] < rows.map[1] && rows.map[2 * {below}] === rows.map[0]")
    page.keyboard.press("+")
    assert page.evaluate("view.zoom") == 1.5
    page.keyboard.press("0")
    assert page.evaluate("view.zoom") == 1
    page.keyboard.press("Enter")
    assert page.inner_text("#detail .id") == page.evaluate(f"rows.ids[{below}]")


def test_colors_are_those_of_kinds_scores_and_classes(page: Any) -> None:
    def colors() -> set[tuple[int, ...]]:
        page.evaluate("drawMap()")
        data = page.evaluate("$('map').toDataURL()").partition(",")[2]
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).reshape(-1, 4)
        return set(map(tuple, np.unique(found[found[:, 3] > 200][:, :3] // 32, axis=0).tolist()))

    assert page.inner_text("#map-legend").split("\n") == ["the largest kind", "kind 2", "kind 1"]
    by_kind = colors()
    page.select_option("#map-color", label="Contrastive loss")
    assert colors() != by_kind
    assert page.inner_text("#map-legend").split() == ["low", "high"]
    page.select_option("#map-color", label="Class")
    assert "<i>cat</i>" in page.inner_text("#map-legend")


def few(count: int, path: Path, *, images: int = 100_000, kinds: np.ndarray | None = None) -> Path:
    source = ArraySource(np.arange(count * 48, dtype=np.uint8).reshape(count, 4, 4, 3), name="few")
    kinds = np.zeros(count, dtype=np.int64) if kinds is None else kinds
    sizes = np.bincount(kinds)
    entries = GalleryEntries(
        ids=list(source.ids),
        columns={},
        rarity=np.linspace(1, 0, count, dtype=np.float32),
        rank=np.arange(1, count + 1),
        percentile=np.linspace(100, 0, count, dtype=np.float32),
        kinds=kinds,
        groups=[
            KindGroup(kind, int(size), 1.0, int(np.argmax(kinds == kind)), rare=kind > 0)
            for kind, size in enumerate(sizes)
        ],
        odd=np.array([count - 1]),
        bad={},
        projection=np.zeros((count, 2), dtype=np.float32),
    )
    return write_gallery(path, entries, source, title="Few", images=images)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_images_that_are_all_alike(browser: Any, tmp_path: Path, count: int) -> None:
    context = browser.new_context()
    found = context.new_page()
    problems: list[str] = []
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.goto(few(count, tmp_path / "few.html").as_uri())
    found.wait_for_selector(".tile")
    assert found.inner_text("#count") == f"{count} image{'' if count == 1 else 's'}"
    assert found.is_visible("#map-section") == (count > 2)
    assert problems == []
    context.close()


def test_a_page_lists_only_so_many_images(browser: Any, tmp_path: Path) -> None:
    kinds = np.where(np.arange(100) % 20 == 19, 1, 0)  # five, of which two are beyond the rarest 50
    context = browser.new_context()
    found = context.new_page()
    found.goto(few(100, tmp_path / "many.html", images=50, kinds=kinds).as_uri())
    found.wait_for_selector(".tile")
    assert "This page lists " in found.inner_text(".summary")
    listed = found.evaluate("Array.from(rows.rank)")
    assert listed[:50] == list(range(1, 51))
    assert sorted(listed) == listed
    assert {60, 80, 100} <= set(listed)  # examples of the rare kind, and the odd image
    assert found.inner_text(".kind h3 >> nth=0").split("\n")[0].startswith("5 images")
    found.click(".tile >> nth=0")
    assert "1 of 100" in found.inner_text("#detail .facts")
    context.close()


def test_pictures_that_are_missing_are_told(browser: Any, page_file: Path, tmp_path: Path) -> None:
    shutil.copytree(page_file.parent, tmp_path / "copy")
    for sheet in (tmp_path / "copy").glob("*_files/sheet-*.jpg"):
        sheet.unlink()
    context = browser.new_context()
    found = context.new_page()
    found.goto((tmp_path / "copy" / page_file.name).as_uri())
    found.wait_for_selector("#problem:visible")
    assert "Some thumbnails are missing" in found.inner_text("#problem")
    assert found.inner_text("#tile-0 .picture") == "picture is missing"
    assert found.inner_text("#count") == "599 images"
    context.close()


def test_without_scripts_still_pictures_remain(browser: Any, page_file: Path, entries: GalleryEntries) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1000, "height": 800})
    found = context.new_page()
    found.goto(page_file.as_uri())
    text = found.inner_text("body")
    assert "Scripts are off" in text
    assert "Kind 2: 120 images, rare" in text
    assert "Near-duplicates, in pairs" in text
    assert not found.is_visible("main")
    context.close()
    source = page_file.read_text("utf-8")
    styles = dict(re.findall(r"\.(p\d+)\{width:16px;height:16px;(.*?)\}", source))
    shown = re.findall(r'<span class="(p\d+)" title="([^"]*)"', source)
    assert {name for name, _ in shown} == set(styles)
    assert entries.ids[entries.groups[2].medoid] in {title for _, title in shown}
