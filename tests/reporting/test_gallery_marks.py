"""Marks on the page of rare images, in Chromium: given, kept, saved, loaded; near-duplicates and what to label next."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import FolderSource
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

# As in conftest.py:
EVIL = ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', 'a,"b"\n.png']
COPIES = ((52, 50, 51), (20, 599))
NEXT = (300, 5, 100, 590)


def shown(page: Any) -> list[str]:
    return page.evaluate("Array.from(shown, (row) => rows.ids[row])")


def saved(page: Any, folder: Path, button: str = "#save-marks") -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.click(button)
    assert download.value.suggested_filename == "marks.csv"
    download.value.save_as(folder / "marks.csv")
    with (folder / "marks.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def note(page: Any) -> str:
    return page.inner_text("#marks-note")


def test_marks_by_keys_and_buttons_are_saved(page: Any, tmp_path: Path) -> None:
    page.click("#tile-1", modifiers=["Control"])
    page.click("#tile-2", modifiers=["Control"])
    page.keyboard.press("x")
    page.click("#unselect")
    page.click("#tile-4")
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("l")
    page.keyboard.type('=old "boots"')  # typed, not obeyed
    page.keyboard.press("Enter")
    assert note(page) == "1 keep · 2 drop · 1 labeled"
    assert "drop" in page.get_attribute("#tile-1", "class")
    assert page.inner_text("#tile-5 .caption span") == '=old "boots"'
    assert page.get_attribute("#detail [aria-pressed='true']", "aria-pressed") == "true"
    found = saved(page, tmp_path)
    assert list(found[0]) == ["path", "id", "mark", "label"]
    assert [(row["id"], row["mark"], row["label"]) for row in found] == [
        (EVIL[1], "drop", ""),
        (EVIL[2], "drop", ""),
        ("set/00004.png", "keep", ""),
        ("set/00005.png", "", '\'=old "boots"'),  # no formula
    ]
    assert {row["path"] for row in found} == {""}  # images in memory are no files
    page.click("#show-marks")
    assert len(shown(page)) == 4


def test_a_mark_given_twice_is_taken_back_and_all_can_be_undone(page: Any) -> None:
    page.click("#tile-3")
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert note(page) == "Nothing is marked yet"
    page.keyboard.press("x")
    page.click("#clear-marks")
    assert note(page) == "Nothing is marked yet"
    page.keyboard.press("Control+z")
    assert note(page) == "1 drop"
    for _ in range(4):
        page.keyboard.press("Control+z")
    assert note(page) == "Nothing is marked yet"
    assert page.inner_text("#toast") == "Nothing to undo"


def test_marks_outlive_the_page(page: Any, tmp_path: Path) -> None:
    page.click("#tile-0")
    page.keyboard.press("x")
    page.reload()
    page.wait_for_selector(".tile.drop")
    assert note(page) == "1 drop"
    saved(page, tmp_path)
    page.evaluate("localStorage.clear()")
    page.reload()
    page.wait_for_selector(".tile")
    assert note(page) == "Nothing is marked yet"
    page.set_input_files("#marks-file", tmp_path / "marks.csv")
    page.wait_for_selector(".tile.drop")
    assert note(page) == "1 drop"


def test_loading_what_is_no_table_of_marks(page: Any, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    page.set_input_files("#marks-file", tmp_path / "other.csv")
    page.wait_for_selector("#problem:visible")
    assert "other.csv holds no marks" in page.inner_text("#problem")
    assert "other.csv holds no marks" in page.inner_text("#toast")  # the top of the page may be out of sight
    (tmp_path / "strange.csv").write_text(
        '\ufeffmark,id\r\nkeep,set/00003.png\r\nlost,set/00004.png\r\ndrop,"no, such"\r\n'
    )
    page.set_input_files("#marks-file", tmp_path / "strange.csv")
    page.wait_for_selector(".tile.keep")
    assert "1 mark loaded. Ctrl+Z undoes. 2 rows left out" in page.inner_text("#toast")
    assert not page.is_visible("#problem")


def test_an_exported_table_is_loaded_as_it_was_marked(page: Any, tmp_path: Path) -> None:
    page.click("#tile-0")
    page.keyboard.press("x")
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "images.csv")
    page.set_input_files("#marks-file", tmp_path / "images.csv")
    page.wait_for_selector("#toast.on")
    assert note(page) == "1 drop"  # classes are no labels


def test_two_tabs_of_a_page_share_their_marks(page: Any) -> None:
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".tile")
    page.click("#tile-0")
    page.keyboard.press("k")
    other.wait_for_selector(".tile.keep")
    other.click("#tile-1")
    other.keyboard.press("x")
    page.wait_for_selector(".tile.drop")
    assert note(page) == note(other) == "1 keep · 1 drop"


def folder_page(folder: Path, images: Path) -> Path:
    """A page of the images in a folder, all of one kind."""
    source = FolderSource(images)
    count = len(source)
    entries = GalleryEntries(
        ids=list(source.ids),
        columns={},
        rarity=np.linspace(1, 0, count, dtype=np.float32),
        rank=np.arange(1, count + 1),
        percentile=np.linspace(100, 0, count, dtype=np.float32),
        kinds=np.zeros(count, dtype=np.int64),
        groups=[KindGroup(0, count, 1.0, 0, rare=False)],
        odd=np.zeros(0, dtype=np.int64),
        bad={},
    )
    return write_gallery(folder / "page.html", entries, source, title="Files")


def test_marks_belong_to_a_folder_and_outlive_new_images(browser: Any, tmp_path: Path) -> None:
    context = browser.new_context()
    found = context.new_page()
    for camera in ("a", "b"):
        (tmp_path / camera / "pics").mkdir(parents=True)
        for number in (1, 2):
            Image.new("RGB", (20, 20), "red").save(tmp_path / camera / "pics" / f"{number}.jpg")
    found.goto(folder_page(tmp_path / "a", tmp_path / "a" / "pics").as_uri())
    found.click("#tile-1")
    found.keyboard.press("x")
    found.goto(folder_page(tmp_path / "b", tmp_path / "b" / "pics").as_uri())
    assert note(found) == "Nothing is marked yet"  # another folder with the same names
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "a" / "pics" / "0.jpg")
    page = folder_page(tmp_path / "a", tmp_path / "a" / "pics")
    found.goto(page.as_uri())
    assert note(found) == "1 drop"
    assert found.evaluate("Array.from(marks.rows(), (row) => rows.ids[row])") == ["2.jpg"]
    (tmp_path / "a" / "pics" / "2.jpg").rename(tmp_path / "2.jpg")
    folder_page(tmp_path / "a", tmp_path / "a" / "pics")
    found.goto("about:blank")
    found.goto(page.as_uri())
    found.click("#tile-0")
    found.keyboard.press("k")
    (tmp_path / "2.jpg").rename(tmp_path / "a" / "pics" / "2.jpg")
    folder_page(tmp_path / "a", tmp_path / "a" / "pics")
    found.goto("about:blank")
    found.goto(page.as_uri())
    assert note(found) == "1 keep · 1 drop"  # the mark of the image that was away is kept
    context.close()


def test_near_duplicates_are_shown_in_groups_and_marked(page: Any, entries: GalleryEntries, tmp_path: Path) -> None:
    titles = page.eval_on_selector_all("#copies-strip .thumb", "(all) => all.map((one) => one.title)")
    assert titles == [entries.ids[position] for position in (52, 50, 20, 599)]
    assert page.inner_text("#copies-strip .more") == "+1"
    assert page.inner_text("#copies-note") == "2 groups of the same picture. 3 images can go."
    page.click("#show-copies")
    assert shown(page) == [entries.ids[position] for group in COPIES for position in group]
    assert page.inner_text("#tile-0 .caption span") == "group 1, keep"
    page.click("#tile-4")
    assert "group 2 (2 images)" in page.inner_text("#detail")
    page.click("#drop-copies")
    found = saved(page, tmp_path)
    assert {row["id"] for row in found} == {entries.ids[position] for position in (50, 51, 599)}
    assert {row["mark"] for row in found} == {"drop"}


def test_what_to_label_next(page: Any, entries: GalleryEntries) -> None:
    expected = [entries.ids[position] for position in NEXT]
    assert page.eval_on_selector_all("#next-strip .thumb", "(all) => all.map((one) => one.title)") == expected
    page.click("#show-next")
    assert shown(page) == expected
    assert page.locator("#grid .picture.none").count() == 0  # also beyond the rarest 550
    page.click("#all-shown")
    page.keyboard.press("l")
    page.keyboard.type("dog")
    page.keyboard.press("Enter")
    assert note(page) == "4 labeled"


def test_a_browser_that_keeps_nothing_warns(page: Any) -> None:
    page.evaluate("stored.write = () => false")
    page.click("#tile-0")
    page.keyboard.press("k")
    assert "Save them before you close" in page.inner_text("#problem")
    assert page.evaluate("dispatchEvent(new Event('beforeunload', { cancelable: true }))") is False
    page.evaluate("marks.undo()")


@pytest.mark.parametrize("name", ["it's #1 & 100%.png", "a b.png", "ä\u4e2d\U0001f600.png", "x\u202egpj.png"])
def test_marks_name_the_files(browser: Any, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "my images #2"
    folder.mkdir()
    for file in (name, "z.png"):
        Image.new("RGB", (20, 20), "red").save(folder / file)
    file = folder_page(tmp_path / "out", folder)
    (tmp_path / "moved").mkdir()
    (tmp_path / "out").rename(tmp_path / "moved" / "out")
    folder.rename(tmp_path / "moved" / "my images #2")
    context = browser.new_context(accept_downloads=True)
    found = context.new_page()
    found.goto((tmp_path / "moved" / "out" / file.name).as_uri())
    found.click("#all-shown")
    found.keyboard.press("k")
    marked = saved(found, tmp_path)
    assert [Path(row["path"]).exists() for row in marked] == [True, True]
    assert {row["id"] for row in marked} == {name, "z.png"}
    assert "\u202e" not in found.inner_text("main")
    found.click("#tile-0")
    found.wait_for_selector("#detail .box img")  # the file itself
    assert found.evaluate("document.querySelector('#detail .box img').naturalWidth") == 20
    context.close()
