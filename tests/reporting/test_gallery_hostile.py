"""Names, labels and titles that try to be markup, to turn the text around them or to hide, on the page in Chromium."""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import ArraySource, FolderSource, Source
from sdclr.marks.apply import apply_marks
from sdclr.marks.table import read_marks
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

NAMES = [
    "</script><script>window.intruded = 1</script>.png",
    "<!--<script>.png",
    "<img src=x onerror=window.intruded=1>.png",
    "two\nlines.png",
    "carriage\rreturn.png",
    "tab\there.png",
    "bell\x07.png",
    "null\0.png",
    "escape\x1b[31m.png",
    "delete\x7f.png",
    "next\x85line.png",
    "evil\u202egnp.exe",
    "iso\u2067late\u2066.png",
    "mark\u200fright.png",
    "arabic\u061cmark.png",
    "zero\u200bwidth.png",
    "line\u2028separator.png",
    "bom\ufeff.png",
    "owl\U0001f989.png",
    "plane\U00020bb7.png",
    "surrogate\udce9.png",
    "quo\"te's.png",
    "`${window.intruded = 1}`.png",
    "&lt;amp&amp;.png",
    "x" * 2000 + ".png",
    "../../etc/passwd",
    "\u05e2\u05d1\u05e8\u05d9\u05ea/a.png",
    "=cmd|' /C calc'!A0.png",
    "%00%2e#hash?query.png",
    "javascript:window.intruded=1",
]
CLASSES = (
    "<i id=intruder>cat</i>",
    "</script><script>window.intruded = 2</script>",
    "rtl\u202eeman",
    "two\nlines",
    "\u0007bell",
    "\"quoted\" 'twice'",
)


TEXTS = """[...document.querySelectorAll("body *")].flatMap((one) => [
  one.title ?? "", one.getAttribute("aria-label") ?? "",
  ...[...one.childNodes].filter((node) => node.nodeType === 3 && !["SCRIPT", "STYLE"].includes(one.tagName))
    .map((node) => node.textContent)])"""
"""All that a reader or a screen reader meets: text, tooltips, names of controls."""


def hides(letter: str) -> bool:
    """Whether a letter shows nothing itself, but breaks, turns or hides text; those within words and emoji do not."""
    return unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and letter not in "\u200c\u200d"


def made_page(folder: Path, source: Source, **changes: Any) -> Path:
    count = len(source)
    kinds = (np.arange(count) % 3 == 0).astype(np.int64)
    sizes = np.bincount(kinds)
    entries = GalleryEntries(
        ids=source.ids,
        columns={},
        rarity=np.linspace(1, 0.1, count).astype(np.float32),
        rank=np.arange(1, count + 1),
        percentile=np.linspace(100, 0, count).astype(np.float32),
        kinds=kinds,
        groups=[
            KindGroup(kind=0, size=int(sizes[0]), separation=0.5, medoid=1, rare=False),
            KindGroup(kind=1, size=int(sizes[1]), separation=1.0, medoid=0, rare=True),
        ],
        odd=np.arange(0, count, 2),
        bad={},
        labels=np.arange(count) % len(CLASSES),
        classes=CLASSES,
        score="distance",
    )
    return write_gallery(folder / "page.html", entries, source, **({"title": "Rare"} | changes))


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (len(NAMES), 8, 8, 3), dtype=np.uint8)
    source = ArraySource(pixels, ids=NAMES, name="made")
    why = "</script><b id=intruder>why</b> \u202e".format
    folder = tmp_path_factory.mktemp("hostile")
    return made_page(folder, source, title="</title><b id=intruder>\u202eeltit", why=why)


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page; whatever it complains of, or asks, fails the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))

    def open_page(path: Path) -> Any:
        page.goto(path.as_uri())
        page.wait_for_selector(".tile")
        return page

    yield open_page
    context.close()
    assert problems == []


def test_nothing_becomes_markup_or_runs(opened: Any, hostile_file: Path) -> None:
    page = opened(hostile_file)
    for row in range(len(NAMES)):
        page.evaluate(f"openDetail({row})")
    found = page.evaluate(
        "[window.intruded ?? null, document.querySelectorAll('#intruder, main img, main script').length]"
    )
    assert found == [None, 0]
    assert page.evaluate("document.querySelector('main').contains(document.querySelector('#grid'))")


def test_names_are_shown_as_they_are_but_for_what_hides(opened: Any, hostile_file: Path) -> None:
    page = opened(hostile_file)
    for row, name in enumerate(NAMES):
        page.evaluate(f"openDetail({row})")
        shown = page.text_content("#detail .id")
        kept = "".join(letter for letter in name if not hides(letter))
        assert re.sub(r"\\u[0-9a-f]{4}", "", shown) == kept
        assert len(re.findall(r"\\u[0-9a-f]{4}", shown)) == sum(map(hides, name))


def test_nothing_on_the_page_turns_or_hides_text(opened: Any, hostile_file: Path) -> None:
    """Wherever a name or class stands: in text, tooltips, and what a screen reader says."""
    page = opened(hostile_file)
    texts = []
    for row in range(len(NAMES)):
        page.evaluate(f"openDetail({row})")
        texts += page.evaluate(TEXTS.replace("body *", "main *, #detail, #detail *"))
    wrong = {text for text in texts if any(hides(letter) for letter in text.strip())}
    assert wrong == set()


def test_a_long_name_stays_in_its_panel(opened: Any, hostile_file: Path) -> None:
    page = opened(hostile_file)
    page.evaluate(f"openDetail({NAMES.index('x' * 2000 + '.png')})")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("$('detail').scrollWidth <= $('detail').clientWidth + 1")


def test_searching_finds_hostile_names(opened: Any, hostile_file: Path) -> None:
    page = opened(hostile_file)
    for text, name in (("</SCRIPT>", NAMES[0]), ("\U0001f989", "owl\U0001f989.png"), ("`${", NAMES[22])):
        page.fill("#search", text)
        assert page.evaluate("Array.from(shown, (row) => rows.ids[row])") == [name]


FILES = [
    "new\nline.png",
    "carriage\rreturn.png",
    'it\'s "quoted", really;.png',
    " blank first.png",
    "evil\u202egnp.png",
    "\U0001f989.png",
    "=1+1.png",
    "<b>&amp;.png",
    "%41#1?.png",
    os.fsdecode(b"caf\xe9.png"),
    "sub folder/\u05e2.png",
]


def test_marks_of_hostile_files_come_back_into_the_work(opened: Any, tmp_path: Path) -> None:
    images = tmp_path / "my images %20 #1"
    for number, name in enumerate(FILES):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(images / name)
    source = FolderSource(images)
    page = opened(made_page(tmp_path / "out", source))
    page.evaluate("marks.set(Array.from(rows.ids.keys()), MARKS.indexOf('keep'))")
    page.evaluate("marks.setLabel(Array.from(rows.ids.keys()), 'a, \"b\"; c')")
    page.evaluate("marks.set([0], MARKS.indexOf('drop'))")
    with page.expect_download() as download:
        page.click("#save-marks")
    download.value.save_as(tmp_path / "marks.csv")
    marks = read_marks(tmp_path / "marks.csv")
    assert len(marks) == len(FILES)
    assert set(marks.labels()) == {'a, "b"; c'}
    assert (marks.count("drop"), marks.count("keep")) == (1, len(FILES) - 1)
    alone = apply_marks(marks)  # by the paths that the page knows
    lost = [name for name in FILES if not name.isprintable() and "\udce9" in name]
    assert {picture.file for picture in (*alone.images.kept, *alone.images.dropped)} == {
        images / name for name in FILES if name not in lost
    }
    assert len(alone.images.missing) == len(lost) == 1  # a browser cannot write a name that is not UTF-8
    moved = shutil.move(images, tmp_path / "moved")
    done = apply_marks(marks, moved, links=tmp_path / "links", how="copy")
    assert {picture.id for picture in (*done.images.kept, *done.images.dropped)} == set(FILES)
    assert done.images.unknown == done.images.missing == []
    assert len(FolderSource(tmp_path / "links")) == len(FILES) - 1


def test_a_long_label_stays_in_its_panel(opened: Any, hostile_file: Path) -> None:
    page = opened(hostile_file)
    page.evaluate("marks.setLabel([0], 'x'.repeat(500))")
    page.evaluate("openDetail(0)")
    assert page.evaluate("$('detail').scrollWidth <= $('detail').clientWidth + 1")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("woman\U0001f469\u200d\U0001f52c.png", "woman\U0001f469\u200d\U0001f52c.png"),
        ("\u0645\u06cc\u200c\u062e.png", "\u0645\u06cc\u200c\u062e.png"),
        ("soft\u00adhyphen.png", "soft\\u00adhyphen.png"),
        ("annotation\ufff9.png", "annotation\\ufff9.png"),
    ],
)
def test_what_hides_is_shown_and_what_joins_is_left(opened: Any, tmp_path: Path, name: str, shown: str) -> None:
    pixels = np.zeros((6, 8, 8, 3), dtype=np.uint8)
    page = opened(made_page(tmp_path, ArraySource(pixels, ids=[name, *"bcdef"], name="made")))
    page.evaluate("openDetail(0)")
    assert page.text_content("#detail .id") == shown


def test_without_scripts_nothing_turns_or_hides_text(browser: Any, hostile_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(hostile_file.as_uri())
    texts = [page.title(), *page.evaluate(TEXTS)]
    context.close()
    assert not {text for text in texts if any(hides(letter) for letter in text.strip())}


@pytest.mark.parametrize("text", ["path;id;mark\n;../../etc/passwd;drop\n", "ID,Mark,Note\n../../etc/passwd,Drop,x\n"])
def test_marks_from_a_spreadsheet_are_loaded(opened: Any, hostile_file: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "marks.csv").write_text(text)
    page = opened(hostile_file)
    page.set_input_files("#marks-file", tmp_path / "marks.csv")
    page.wait_for_selector("#toast.on")
    assert "1 mark loaded" in page.inner_text("#toast")


def test_marks_of_names_that_are_not_utf8_are_loaded(opened: Any, hostile_file: Path, tmp_path: Path) -> None:
    (tmp_path / "marks.csv").write_text("id,mark\nsurrogate\ufffd.png,drop\n", encoding="utf-8")
    page = opened(hostile_file)
    page.set_input_files("#marks-file", tmp_path / "marks.csv")
    page.wait_for_selector("#toast.on")
    assert "1 mark loaded" in page.inner_text("#toast")
