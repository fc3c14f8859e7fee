"""The list of rare images as a reader uses it: opened from disk in Chromium, clicked and typed at."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.reporting.gallery import GalleryEntries

# As in conftest.py:
EVIL = ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', 'a,"b"\n.png']
COUNT = 600
BAD = 7  # position of an image that is not scored


def shown(page: Any) -> list[str]:
    """Ids in the order of the page, as far as they are drawn."""
    return page.evaluate("[...tiles].sort((a, b) => a[0] - b[0]).map(([place]) => rows.ids[shown[place]])")


def chosen(page: Any) -> list[str]:
    return page.evaluate("Array.from(leaving(), (row) => rows.ids[row])")


def count(page: Any) -> str:
    return page.inner_text("#count")


def test_the_rarest_come_first_with_pictures_and_names_that_stay_text(page: Any) -> None:
    assert shown(page)[:4] == [*EVIL, "set/00003.png"]
    assert count(page) == "599 images"
    assert page.inner_text("h1") == "<Rare>"
    assert page.title() == "<Rare>"
    picture = page.eval_on_selector("#tile-0 .picture", "(element) => getComputedStyle(element).backgroundImage")
    assert picture.startswith('url("file:///')
    assert "rare%20images_files/sheet-" in picture
    assert (
        page.eval_on_selector("#tile-0 .picture", "(element) => getComputedStyle(element).imageRendering")
        == "pixelated"
    )
    assert page.locator("#grid img, #detail img, #grid script").count() == 0
    page.click("#tile-1")
    assert page.inner_text("#detail .id") == EVIL[1]
    page.click("#tile-2")
    assert page.inner_text("#detail .id") == EVIL[2].replace("\n", "\\u000a")


def test_a_picture_is_where_its_image_is(page: Any) -> None:
    """The pixels on the screen are those of the image, also beyond the first sheet."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    page.evaluate("go(97)")
    # A picture that is drawn is decoded: its sheet is then at hand for the screen.
    page.evaluate("async () => { const sheet = new Image(); sheet.src = meta.sheets[2]; await sheet.decode(); }")
    shot = page.locator("#tile-97 .box").screenshot()
    small = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB").resize((16, 16), Image.Resampling.BOX)).astype(float)
    inner = np.s_[3:-3, 3:-3]  # corners are round, and the frame of the chosen one lies outside
    far = [np.abs(small[inner] - images[position][inner]).mean() for position in range(COUNT)]
    assert int(np.argmin(far)) == 98  # one before it is bad
    assert far[98] < 25


def test_only_what_is_in_sight_is_on_the_page(page: Any) -> None:
    assert page.locator(".tile").count() < 150
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector(f"#tile-{COUNT - 2}")
    assert page.locator(".tile").count() < 150
    assert shown(page)[-1] == f"set/{COUNT - 1:05d}.png"
    assert page.inner_text("#tile-595 .picture") == "no picture"  # beyond the rarest 550, and no example


def test_order_by_any_score_both_ways(page: Any, entries: GalleryEntries) -> None:
    by_loss = np.argsort(np.nan_to_num(entries.columns["loss"], nan=-1))
    page.select_option("#sort", label="Contrastive loss")
    assert shown(page)[:3] == [entries.ids[position] for position in by_loss[::-1][:3]]
    page.click("#direction")
    assert shown(page)[:3] == [entries.ids[position] for position in by_loss[1:4]]  # the first of them is the bad one
    page.wait_for_url(re.compile("#sort=loss&up=1"), wait_until="commit")
    page.select_option("#sort", label="Rarity (distance)")
    assert shown(page)[0] == f"set/{COUNT - 1:05d}.png"


def test_filters_and_the_way_back(page: Any) -> None:
    page.select_option("#kind", label="Kind 2 (120 images)")
    assert count(page) == "120 of 599 images"
    assert page.inner_text("#shown-title") == "Kind 2"
    page.select_option("#label", label="<i>cat</i> (300)")
    assert count(page) == "60 of 599 images"
    page.fill("#search", "SET/0010")
    assert shown(page) == ["set/00108.png"]
    page.wait_for_url(re.compile("find="), wait_until="commit")
    address = page.url
    page.click("#reset")
    assert count(page) == "599 images"
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".tile")
    assert shown(page) == ["set/00108.png"]
    assert page.input_value("#search") == "SET/0010"


def test_a_range_of_the_score(page: Any, entries: GalleryEntries) -> None:
    for _ in range(3):
        page.focus("#low")
        page.keyboard.press("PageUp")  # a tenth of the range each
    expected = int((entries.rarity >= np.nanmin(entries.rarity) + 0.3 * 0.9).sum())
    found = int(count(page).split(" of ")[0])
    assert abs(found - expected) <= 1
    assert page.locator("#histogram i.in").count() < page.locator("#histogram i").count()
    page.select_option("#sort", label="Contrastive loss")  # the range was of the other score
    assert count(page) == "599 images"


def test_selection_by_mouse(page: Any) -> None:
    page.click("#tile-2")
    page.click("#tile-5", modifiers=["Shift"])
    assert chosen(page) == [EVIL[2], "set/00003.png", "set/00004.png", "set/00005.png"]
    page.click("#tile-3", modifiers=["Control"])
    page.hover("#tile-0")
    page.click("#tile-0 .mark")
    assert chosen(page) == [EVIL[0], EVIL[2], "set/00004.png", "set/00005.png"]
    assert page.get_attribute("#tile-0", "aria-selected") == "true"
    assert page.get_attribute("#tile-3", "aria-selected") == "false"
    page.click("#unselect")
    assert page.inner_text("#what") == "All shown:"


def test_selection_by_keys(page: Any) -> None:
    page.focus("#grid")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    assert chosen(page) == [EVIL[1], EVIL[2]]
    across = page.evaluate("across")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#grid", "aria-activedescendant") == f"tile-{2 + across}"
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")  # nothing is below
    assert not page.is_visible("#detail")
    page.keyboard.press("Enter")
    assert page.inner_text("#detail .id") == f"set/{COUNT - 1:05d}.png"
    page.keyboard.press("Home")
    assert page.inner_text("#detail .id") == EVIL[0]
    page.keyboard.press("Escape")
    assert not page.is_visible("#detail")
    assert chosen(page) == [EVIL[1], EVIL[2]]
    page.keyboard.press("Escape")
    assert len(chosen(page)) == COUNT - 1
    page.keyboard.press("Control+a")
    assert page.inner_text("#what") == "599 selected"


def test_search_and_help_by_keys(page: Any) -> None:
    page.focus("#grid")
    page.keyboard.press("/")
    page.keyboard.type("c?t/")  # typed, not obeyed
    assert page.input_value("#search") == "c?t/"
    assert not page.is_visible("#help")
    assert count(page) == "0 of 599 images"
    assert page.is_disabled("#csv")
    page.keyboard.press("Escape")
    assert count(page) == "599 images"
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")


def test_export_of_the_selection(page: Any, entries: GalleryEntries, tmp_path: Path) -> None:
    page.click("#tile-0", modifiers=["Control"])
    page.click("#tile-2", modifiers=["Control"])
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == [EVIL[0], EVIL[2]]
    assert [row["rank"] for row in found] == ["1", "3"]
    assert found[0]["class"] == "<i>cat</i>"
    assert float(found[1]["loss"]) == entries.columns["loss"][2]
    with page.expect_download() as download:
        page.click("#json")
    download.value.save_as(tmp_path / "rows.json")
    records = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert [record["id"] for record in records] == [EVIL[0], EVIL[2]]
    assert records[1]["rarity"] == pytest.approx(float(entries.rarity[2]), rel=1e-6)
    page.click("#copy")
    page.wait_for_selector("#toast.on")
    assert page.evaluate("navigator.clipboard.readText()") == f"{EVIL[0]}\n{EVIL[2]}"


def test_without_a_selection_all_shown_are_exported(page: Any, tmp_path: Path) -> None:
    page.fill("#search", "set/0059")
    with page.expect_download() as download:
        page.click("#json")
    download.value.save_as(tmp_path / "rows.json")
    assert len(json.loads((tmp_path / "rows.json").read_text("utf-8"))) == 10


def test_the_image_in_detail(page: Any, entries: GalleryEntries) -> None:
    page.click("#tile-3")
    text = page.inner_text("#detail")
    assert "set/00003.png" in text
    assert "4 of 599" in text
    share = 100 * 595 / 599  # images with a lower rarity
    assert f"rarity (distance) is higher than that of {int(share * 10) / 10}% of 599 images" in text
    assert "It belongs to a kind of 240 images; 2 of 3 kinds are smaller." in text
    assert "odd" not in text
    loss = entries.columns["loss"]
    lower = 100 * float((loss < loss[3]).sum()) / 599
    assert f"{int(lower * 10) / 10:.1f}%" in text
    page.click("#detail button:has-text('Copy id')")
    page.wait_for_selector("#toast.on")
    assert page.evaluate("navigator.clipboard.readText()") == "set/00003.png"
    page.click("#detail .facts button")
    assert count(page) == "240 of 599 images"


def test_bad_images_are_listed(page: Any) -> None:
    assert page.inner_text("#show-bad") == "1 unreadable"
    page.click("#show-bad")
    assert page.inner_text("#bad tbody") == f"set/{BAD:05d}.png\tnot scored: truncated <b>"
    page.keyboard.press("Escape")
    assert not page.is_visible("#bad")


def test_light_and_dark(page: Any) -> None:
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.click("#theme")
    dark = background()
    assert dark != light
    page.reload()
    page.wait_for_selector(".tile")
    assert background() == dark  # it is remembered
    page.keyboard.press("t")
    assert background() == light


def test_dark_where_the_reader_prefers_it(browser: Any, page_file: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    found = context.new_page()
    found.goto(page_file.as_uri())
    assert found.evaluate("document.documentElement.dataset.theme") == "dark"
    context.close()


def test_a_page_without_its_folder_says_so(browser: Any, page_file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.html"
    shutil.copy(page_file, alone)
    context = browser.new_context()
    found = context.new_page()
    found.goto(alone.as_uri())
    assert "Keep the folder that ends in _files" in found.inner_text("#problem")
    assert not found.is_visible("main")
    context.close()


def test_nothing_else_may_run(browser: Any, page_file: Path) -> None:
    """The policy of the page refuses a script that is not its own, and any address but a file's."""
    context = browser.new_context()
    found = context.new_page()
    found.goto(page_file.as_uri())
    refused = found.evaluate(
        """async () => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.intruded = true";
          document.body.append(script);
          new Image().src = "https://example.org/x.png";
          await new Promise((done) => setTimeout(done, 300));
          return [found.sort(), window.intruded === true];
        }"""
    )
    assert refused[0][0] == "img-src"
    assert refused[0][1].startswith("script-src")
    assert refused[1] is False
    context.close()


def test_every_control_has_a_name(page: Any) -> None:
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((element) => !element.hidden
          && !(element.textContent.trim() || element.getAttribute("aria-label") || element.labels?.length)).length"""
    )
    assert nameless == 0
    tile = page.locator("#tile-0")
    assert tile.get_attribute("role") == "option"
    assert tile.get_attribute("aria-posinset") == "1"
    assert page.get_attribute("#grid", "role") == "listbox"


def test_tab_leads_to_the_first_image_of_the_list(page: Any) -> None:
    page.focus("#load-marks")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "grid"
    assert page.get_attribute("#grid", "aria-activedescendant") == "tile-0"
    box = page.locator("#tile-0").bounding_box()
    bar = page.locator("#bar").bounding_box()
    assert bar["y"] + bar["height"] <= box["y"] < 800 - box["height"]


def test_nothing_found_is_said(page: Any) -> None:
    page.fill("#search", "no such name")
    assert "No image matches." in page.evaluate("getComputedStyle($('sheet'), '::before').content")
    assert page.is_disabled("#all-shown")
