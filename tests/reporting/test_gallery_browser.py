"""The page of rare images as a reader uses it: opened from disk in Chromium, clicked and typed at."""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import ArraySource
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

CHROMIUM = os.environ.get("SDCLR_CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', 'a,"b"\n.png']
COUNT = 600
BAD = 7  # position of an image that is not scored
ODD = (598, 0, 31)  # the first of them is beyond the rarest 550, which have thumbnails anyway

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("no Chromium here; name one in SDCLR_CHROMIUM", allow_module_level=True)


@pytest.fixture(scope="module")
def entries() -> GalleryEntries:
    """The rarity falls with the position; the loss is shuffled; the three names that try to be markup come first."""
    rarity = np.linspace(1, 0.1, COUNT).astype(np.float32)
    loss = np.random.default_rng(0).permutation(COUNT).astype(np.float32)
    rarity[BAD] = loss[BAD] = np.nan
    rank = np.arange(1, COUNT + 1)
    rank[BAD:] -= 1
    rank[BAD] = 0
    kinds = np.arange(COUNT) % 10 // 4  # 240, 239 and 120 images
    kinds[BAD] = -1
    return GalleryEntries(
        ids=[*EVIL, *(f"set/{index:05d}.png" for index in range(3, COUNT))],
        columns={"loss": loss},
        rarity=rarity,
        rank=rank,
        percentile=np.where(rank > 0, 100 * (COUNT - rank) / COUNT, np.nan).astype(np.float32),
        kinds=kinds,
        groups=[
            KindGroup(kind=0, size=240, separation=0.5, medoid=40, rare=False),
            KindGroup(kind=1, size=239, separation=0.98765, medoid=45, rare=False),
            KindGroup(kind=2, size=120, separation=1.0, medoid=9, rare=True),
        ],
        odd=np.array(ODD),
        bad={f"set/{BAD:05d}.png": "truncated <b>"},
        labels=np.arange(COUNT) % 2,
        classes=("<i>cat</i>", "dog"),
        score="distance",
    )


@pytest.fixture(scope="module")
def page_file(entries: GalleryEntries, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    source = ArraySource(images, ids=entries.ids, name="made")
    path = tmp_path_factory.mktemp("page") / "rare images.html"
    return write_gallery(path, entries, source, title="<Rare>", summary="Few & far", thumbnails=550)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, opened; whatever it complains of or loads from elsewhere fails the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 800}, accept_downloads=True, color_scheme="light")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    found = context.new_page()
    problems: list[str] = []
    found.on("console", lambda message: problems.append(message.text))
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    found.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    found.on(
        "request",
        lambda request: problems.append(request.url) if not request.url.startswith(("file:", "blob:")) else None,
    )
    found.goto(page_file.as_uri())
    found.wait_for_selector(".tile")
    yield found
    context.close()
    assert problems == []


def shown(page: Any) -> list[str]:
    """Ids in the order of the page, as far as they are drawn."""
    return page.evaluate("[...tiles].sort((a, b) => a[0] - b[0]).map(([, tile]) => tile.title)")


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
    assert found[0]["label"] == "<i>cat</i>"
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


def test_the_first_screen_sums_up_and_shows_kinds_from_the_rarest(page: Any, entries: GalleryEntries) -> None:
    short = "599 images. 3 separate kinds: 240, 239 and 120 images. 3 odd images. 1 image could not be read."
    assert page.inner_text(".short") == short
    assert page.eval_on_selector_all(".kind", "(all) => all.map((one) => one.dataset.kind)") == ["2", "1", "0"]
    said = page.eval_on_selector_all(".kind .about", "(all) => all.map((one) => one.innerText.replace(/\\s+/g, ' '))")
    assert said == [
        "120 images rare Kind 2 · 20.0% of all images Separation 100.0%",
        "239 images Kind 1 · 39.8% of all images Separation 98.7%",
        "240 images Kind 0 · 40.0% of all images Separation 50.0%",
    ]
    assert "50.0% stay inside it" in page.get_attribute(".kind:last-child .separation", "title")
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
    page.click(".kind:nth-child(2) button:has-text('Show all')")
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
    assert shown(page) == [entries.ids[position] for position in sorted(ODD)]  # by rank
    assert page.locator("#grid .picture.none").count() == 0
    page.click("#tile-2")
    assert "It is an odd one out." in page.inner_text("#detail .why")
    assert "number 1 of 3" in page.inner_text("#detail .facts")
    with page.expect_download() as download:
        page.click("#json")
    records = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [(record["odd"], record["kind"]) for record in records] == [(True, 0), (True, 0), (True, 2)]


def test_examples_by_keys(page: Any, entries: GalleryEntries) -> None:
    def focused() -> str:
        return page.evaluate("document.activeElement.title")

    def example(kind: int, place: int) -> str:
        return page.get_attribute(f".kind[data-kind='{kind}'] .thumb >> nth={place}", "title")

    page.focus("#show-help")
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
    page.keyboard.press("Tab")
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
    assert (strip["top"], strip["right"]) == (box["top"], pytest.approx(box["right"], abs=78))
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
    page.evaluate("toList(); go(300)")
    before = page.locator(".tile.active").bounding_box()["y"]
    page.locator(".tile.active").click()
    assert page.is_visible("#detail")
    page.wait_for_timeout(100)
    after = page.locator(".tile.active").bounding_box()
    assert abs(after["y"] - before) < 60
    assert after["x"] + after["width"] <= page.locator("#detail").bounding_box()["x"]


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
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
    assert found.locator(".kind").count() == 30
    assert found.get_attribute(".kind", "data-kind") == "9999"
    assert found.inner_text("#more-kinds") == "Show 100 more of 9,970 kinds"
    found.click("#more-kinds")
    assert found.locator(".kind").count() == 130
    assert found.evaluate("document.activeElement.closest('.kind').dataset.kind") == "9969"
    found.wait_for_selector(".kind:nth-child(31) .picture")
    assert found.locator(".kind:nth-child(31) .picture.none").count() == 0
    found.evaluate("while (!$('more-kinds').hidden) $('more-kinds').click()")
    assert found.locator(".kind").count() == 10_000
    assert not problems
    found.context.close()


def test_a_page_of_one_kind_has_no_rows(browser: Any, tmp_path: Path) -> None:
    groups = [KindGroup(kind=0, size=2, separation=1.0, medoid=2, rare=False)]
    found, problems = open_page(browser, few(3, np.array([0, -1, 0]), groups, tmp_path / "one.html"))
    found.wait_for_selector(".tile")
    assert found.locator(".kind, .thumb").count() == 0
    assert "No separate kinds were found" in found.inner_text("#kinds")
    for hidden in ("#odd", "#more-kinds", "#kind-field"):
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
