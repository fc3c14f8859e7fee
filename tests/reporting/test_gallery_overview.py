"""The top of the page of rare images, in Chromium: kinds from the rarest on, odd ones out, and the ways from there."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdclr.data.sources import ArraySource
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

# As in conftest.py:
COUNT = 600
ODD = (598, 0, 31)  # the first of them is beyond the rarest 550, which have thumbnails anyway


def shown(page: Any) -> list[str]:
    """Ids in the order of the page, as far as they are drawn."""
    return page.evaluate("[...tiles].sort((a, b) => a[0] - b[0]).map(([place]) => rows.ids[shown[place]])")


def count(page: Any) -> str:
    return page.inner_text("#count")


def test_the_first_screen_sums_up_and_shows_kinds_from_the_rarest(page: Any, entries: GalleryEntries) -> None:
    short = "599 images. 3 separate kinds: 120, 239 and 240 images. 3 odd images. "
    short += "3 near-duplicates. 1 image could not be read."
    assert page.inner_text(".short") == short
    assert page.eval_on_selector_all(".kind", "(all) => all.map((one) => one.dataset.kind)") == ["2", "1", "0"]
    said = page.eval_on_selector_all(".kind .about", "(all) => all.map((one) => one.innerText.replace(/\\s+/g, ' '))")
    assert said == [
        "120 images rare Kind 2 · 20.0% · separation 100.0%",
        "239 images Kind 1 · 39.8% · separation 98.7%",
        "240 images Kind 0 · 40.0% · separation 50.0%",
    ]
    assert "50.0% stay inside it" in page.get_attribute(".kind:last-child .about p", "title")
    for place, kind in enumerate((2, 1, 0), start=1):
        titles = page.eval_on_selector_all(f".kind:nth-child({place}) .thumb", "(all) => all.map((one) => one.title)")
        assert titles[0] == entries.ids[entries.groups[kind].medoid]
        assert len(titles) == 13
        assert {int(entries.kinds[list(entries.ids).index(title)]) for title in titles} == {kind}


def test_examples_are_pictures_of_their_images(page: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    page.evaluate(
        "async () => { for (const name of meta.sheets) { const s = new Image(); s.src = name; await s.decode(); } }"
    )
    for selector, position in ((".kind:first-child .thumb", 9), ("#odd-strip .thumb", 598)):
        shot = page.locator(selector).first.screenshot()
        small = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB").resize((16, 16), Image.Resampling.BOX))
        inner = np.s_[3:-3, 3:-3]
        far = [np.abs(small[inner].astype(float) - image[inner]).mean() for image in images]
        assert int(np.argmin(far)) == position


def test_show_all_filters_the_list_to_a_kind(page: Any) -> None:
    page.fill("#search", "nothing")
    page.click(".kind:nth-child(2) h3 button")
    assert count(page) == "239 of 599 images"  # the search is over
    assert page.inner_text("#shown-title") == "Kind 1"
    assert page.evaluate("Array.from(shown, (row) => rows.kind[row]).every((kind) => kind === 1)")
    assert abs(page.evaluate("document.getElementById('explorer').getBoundingClientRect().top")) <= 1
    assert page.evaluate("document.activeElement.id") == "grid"
    page.wait_for_url(re.compile("kind=1"), wait_until="commit")
    page.click("#reset")
    assert count(page) == "599 images"
    page.click("#to-top")
    assert page.evaluate("scrollY") == 0


def test_the_odd_ones_out(page: Any, entries: GalleryEntries) -> None:
    expected = [entries.ids[position] for position in ODD]
    assert page.eval_on_selector_all("#odd-strip .thumb", "(all) => all.map((one) => one.title)") == expected
    page.click("#show-odd")
    assert count(page) == "3 of 599 images"
    assert shown(page) == expected  # the oddest first
    page.select_option("#sort", label="Contrastive loss")
    by_loss = sorted(ODD, key=lambda position: -entries.columns["loss"][position])
    assert shown(page) == [entries.ids[position] for position in by_loss]
    page.click("#show-odd")
    assert page.locator("#grid .picture.none").count() == 0
    page.click("#tile-0")
    assert "It is an odd one out." in page.inner_text("#detail .why")
    assert "number 1 of 3" in page.inner_text("#detail .facts")
    with page.expect_download() as download:
        page.click("#json")
    records = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [(record["odd"], record["kind"]) for record in records] == [(True, 2), (True, 0), (True, 0)]


def test_examples_by_keys(page: Any, entries: GalleryEntries) -> None:
    def focused() -> str:
        return page.evaluate("document.activeElement.title")

    def example(kind: int, place: int) -> str:
        return page.get_attribute(f".kind[data-kind='{kind}'] .thumb >> nth={place}", "title")

    page.focus(".kind:first-child h3 button")
    page.keyboard.press("Tab")
    assert focused() == entries.ids[9]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert focused() == example(2, 2)
    page.keyboard.press("ArrowDown")
    assert focused() == example(1, 2)
    page.keyboard.press("Home")
    assert focused() == entries.ids[45]
    page.keyboard.press("Enter")
    assert page.inner_text("#detail .id") == entries.ids[45]
    page.keyboard.press("Escape")  # the panel has the focus, and gives it back
    assert not page.is_visible("#detail")
    assert focused() == entries.ids[45]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.inner_text("#shown-title") == "Kind 1"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert page.evaluate("Array.from(leaving(), (row) => rows.kind[row])") == [1]
    assert page.inner_text("#what") == "1 selected"


def test_only_the_examples_in_sight_take_the_keys(page: Any) -> None:
    page.set_viewport_size({"width": 900, "height": 800})
    page.focus(".kind .thumb")
    page.keyboard.press("End")
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    strip = page.evaluate("document.activeElement.parentElement.getBoundingClientRect().toJSON()")
    assert strip["left"] < box["left"]
    assert strip["top"] <= box["top"]
    assert box["right"] <= strip["right"]
    assert box["bottom"] <= strip["bottom"]


def test_an_example_in_detail_is_found_in_the_list(page: Any, entries: GalleryEntries) -> None:
    page.select_option("#kind", label="Kind 2 (120 images)")
    page.click(".kind:last-child .thumb >> nth=0")
    assert page.inner_text("#detail .id") == entries.ids[40]
    page.click("#detail button:has-text('Find in list')")
    assert count(page) == "599 images"
    box = page.locator(".tile.active").bounding_box()
    assert page.get_attribute(".tile.active", "title") == entries.ids[40]
    assert 0 < box["y"] < 800 - box["height"]


def test_a_tile_stays_in_place_when_the_panel_opens_deep_in_the_list(page: Any) -> None:
    page.evaluate("toList(); go(300); scrollBy(0, 200)")
    before = page.locator(".tile.active").bounding_box()["y"]
    page.locator(".tile.active").click()
    assert page.is_visible("#detail")
    page.wait_for_timeout(100)
    after = page.locator(".tile.active").bounding_box()
    assert abs(after["y"] - before) <= 2
    assert after["x"] + after["width"] <= page.locator("#detail").bounding_box()["x"]


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert page.locator("#bar").bounding_box()["height"] < 60  # its buttons stay in one line
    page.click(".kind:last-child .thumb >> nth=1")
    panel = page.locator("#detail").bounding_box()
    thumb = page.locator(".kind:last-child .thumb >> nth=1").bounding_box()
    assert thumb["y"] + thumb["height"] <= panel["y"]
    page.keyboard.press("Escape")
    page.click("#filters summary")
    page.select_option("#kind", label="Odd ones out (3)")
    assert count(page) == "3 of 599 images"


def open_page(browser: Any, path: Path) -> tuple[Any, list[str]]:
    found = browser.new_context(viewport={"width": 1300, "height": 800}).new_page()
    problems: list[str] = []
    found.on("console", lambda message: problems.append(message.text))
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.goto(path.as_uri())
    return found, problems


def few(count: int, kinds: np.ndarray, groups: list[KindGroup], path: Path) -> Path:
    """A page of gray images, the first one the rarest; those with kind -1 are bad."""
    source = ArraySource(np.zeros((count, 4, 4, 3), np.uint8), name="gray")
    ranked = kinds >= 0
    rarity = np.where(ranked, np.linspace(1, 0, count), np.nan).astype(np.float32)
    found = GalleryEntries(
        ids=list(source.ids),
        columns={},
        rarity=rarity,
        rank=np.where(ranked, np.cumsum(ranked), 0),
        percentile=100 * rarity,
        kinds=kinds,
        groups=groups,
        odd=np.zeros(0, dtype=np.int64),
        bad=dict.fromkeys(np.array(source.ids)[~ranked].tolist(), "truncated"),
        score="distance",
    )
    return write_gallery(path, found, source, title="Gray", size=16)


def test_many_kinds_are_listed_in_parts(browser: Any, tmp_path: Path) -> None:
    kinds = np.concatenate([np.zeros(50, dtype=np.int64), np.arange(10_000)])
    groups = [KindGroup(kind, 51 if kind == 0 else 1, 1.0, 50 + kind, kind > 0) for kind in range(10_000)]
    found, problems = open_page(browser, few(len(kinds), kinds, groups, tmp_path / "many.html"))
    found.wait_for_selector(".kind")
    assert found.locator(".kind").count() == 5
    assert found.get_attribute(".kind", "data-kind") == "9999"
    assert found.inner_text("#more-kinds") == "Show 100 more of 10,000 kinds"
    found.click("#more-kinds")
    assert found.locator(".kind").count() == 105
    assert found.evaluate("document.activeElement.closest('.kind').dataset.kind") == "9994"
    found.wait_for_selector(".kind:nth-child(6) .picture")
    assert found.locator(".kind:nth-child(6) .picture.none").count() == 0
    found.evaluate("while (!$('more-kinds').hidden) $('more-kinds').click()")
    assert found.locator(".kind").count() == 10_000
    assert not problems
    found.context.close()


def test_a_page_of_one_kind_has_no_rows(browser: Any, tmp_path: Path) -> None:
    groups = [KindGroup(kind=0, size=2, separation=1.0, medoid=2, rare=False)]
    found, problems = open_page(browser, few(3, np.array([0, -1, 0]), groups, tmp_path / "one.html"))
    found.wait_for_selector(".tile")
    assert found.locator(".kind").count() == 0
    assert found.locator("#rarest-strip .thumb").count() == 2
    assert "No separate kinds were found" in found.inner_text("#kinds")
    for hidden in ("#odd", "#copies", "#next", "#map-section", "#chart", "#more-kinds"):
        assert not found.is_visible(hidden)
    assert found.inner_text(".short") == "2 images. 1 image could not be read."
    found.click("#tile-0")
    assert "kind" not in found.inner_text("#detail").lower()
    assert not problems
    found.context.close()


def test_a_page_without_readable_images(browser: Any, tmp_path: Path) -> None:
    found, problems = open_page(browser, few(2, np.array([-1, -1]), [], tmp_path / "none.html"))
    found.click("#show-bad")
    assert found.locator("#bad tbody tr").count() == 2
    assert found.inner_text(".short") == "No image could be read."
    assert not found.is_visible("#kinds")
    assert not problems
    found.context.close()
