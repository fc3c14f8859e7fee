"""A page of rare images, opened from disk in Chromium."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
COPIES = ((52, 50, 51), (20, 599))
NEXT = (300, 5, 100, 590)


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
    # On the map each kind is a column, and the position falls from top to bottom.
    projection = np.stack([100.0 * kinds, -np.arange(COUNT)], axis=1).astype(np.float32)
    projection[BAD] = np.nan
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
        duplicates=COPIES,
        projection=projection,
        label_next=np.array(NEXT),
    )


@pytest.fixture(scope="module")
def page_file(entries: GalleryEntries, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    source = ArraySource(images, ids=entries.ids, name="made")
    path = tmp_path_factory.mktemp("page") / "rare images.html"
    return write_gallery(path, entries, source, title="<Rare>", thumbnails=550)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here; name one in SDCLR_CHROMIUM")
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
