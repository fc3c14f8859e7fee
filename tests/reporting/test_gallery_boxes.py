"""The page of boxes: the detail view shows the whole image, with a frame around the box."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdclr.data.sources import open_source
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery

BOXES = [(10, 20, 60, 40), (100, 50, 50, 50), (0, 0, 40, 90)]
"""Left, top, width and height in an image of 200 x 100 pixels."""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three boxes of two images; the folder of the images has a blank in its name."""
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "the images").mkdir()
    for number in range(2):
        pixels = np.full((100, 200, 3), 60 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "the images" / f"{number}.png")
    values = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 200, "height": 100} for number in range(2)],
        "annotations": [
            {"id": number, "image_id": number // 2, "category_id": 1, "bbox": box} for number, box in enumerate(BOXES)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "instances.json").write_text(json.dumps(values))
    source = open_source(f"coco:{folder / 'instances.json'},images={folder / 'the images'}")
    count = len(source)
    entries = GalleryEntries(
        ids=list(source.ids),
        columns={},
        rarity=np.linspace(1, 0.1, count).astype(np.float32),
        rank=np.arange(1, count + 1),
        percentile=np.linspace(100, 0, count).astype(np.float32),
        kinds=np.zeros(count, dtype=np.int64),
        groups=[KindGroup(kind=0, size=count, separation=1.0, medoid=0, rare=False)],
        odd=np.zeros(0, dtype=np.int64),
        bad={},
        labels=source.labels,
        classes=source.classes,
    )
    return write_gallery(folder / "page" / "rare.html", entries, source, title="Boxes")


def test_the_frame_lies_around_the_box(page: Any) -> None:
    for row, (left, top, width, height) in enumerate(BOXES):
        page.click(f"#tile-{row}")
        page.evaluate("row => openDetail(row)", row)
        page.wait_for_selector("#detail .whole img")
        image = page.locator("#detail .whole img").bounding_box()
        frame = page.locator("#detail .whole i").bounding_box()
        assert image["width"] / image["height"] == pytest.approx(2, rel=0.02)
        scale = image["width"] / 200
        found = [frame["x"] - image["x"], frame["y"] - image["y"], frame["width"], frame["height"]]
        np.testing.assert_allclose(found, np.array([left, top, width, height]) * scale, atol=1.5)
        name = page.evaluate("row => rows.wholes[row].file", row)
        assert name == f"../the images/{row // 2}.png"


def test_a_mark_of_a_box_does_not_name_the_file_of_the_whole_image(page: Any) -> None:
    """`sdclr apply` would move or copy that file."""
    assert page.evaluate("rows.files.every((file) => file === undefined)")
