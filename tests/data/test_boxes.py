"""Annotated boxes as images: COCO, YOLO and Pascal VOC, against crops that are cut by hand."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdclr.data.box_files import read_coco
from sdclr.data.boxes import BoxSource, crop_of
from sdclr.data.source import Edges
from sdclr.data.sources import SubsetSource, open_source, stored_image, whole_image
from sdclr.errors import BadImageError, InputError

SIZE = (64, 48)
BOXES = {"a.png": [(8, 4, 20, 16, "cat"), (40, 20, 60, 44, "dog")], "sub/b.png": [(2, 30, 12, 40, "dog")]}
"""Left, top, right and bottom in pixels, and the class."""


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def write_pictures(folder: Path) -> None:
    for seed, name in enumerate(BOXES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(folder / name)


def coco(folder: Path, **changes: object) -> Path:
    write_pictures(folder / "images")
    names = {"cat": 3, "dog": 7}
    images = [
        {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for number, name in enumerate(BOXES)
    ]
    annotations = [
        {"id": 10 * number + place, "image_id": number, "category_id": names[kind], "bbox": [x, y, r - x, b - y]}
        for number, boxes in enumerate(BOXES.values())
        for place, (x, y, r, b, kind) in enumerate(boxes)
    ]
    categories = [{"id": number, "name": name} for name, number in names.items()]
    values = {"images": images, "annotations": annotations, "categories": categories} | changes
    file = folder / "instances.json"
    file.write_text(json.dumps(values))
    return file


def yolo(folder: Path) -> Path:
    write_pictures(folder / "images")
    for name, boxes in BOXES.items():
        file = (folder / "labels" / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for x, y, r, b, kind in boxes:
            center = ((x + r) / 2 / SIZE[0], (y + b) / 2 / SIZE[1])
            lines.append(
                f"{['cat', 'dog'].index(kind)} {center[0]} {center[1]} {(r - x) / SIZE[0]} {(b - y) / SIZE[1]}"
            )
        file.write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("train: images\nnames:\n  0: cat\n  1: dog\n")
    return folder


def voc(folder: Path) -> Path:
    write_pictures(folder / "JPEGImages")
    for name, boxes in BOXES.items():
        file = (folder / "Annotations" / name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{r}</xmax>"
            f"<ymax>{b}</ymax></bndbox></object>"
            for x, y, r, b, kind in boxes
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        file.write_text(f"<annotation><filename>{name}</filename>{size}{objects}</annotation>")
    return folder


def cut(boxes: tuple[int, int, int, int, str], pixels: np.ndarray) -> np.ndarray:
    """The crop without margin: the box widened to a square, moved into the image."""
    x, y, r, b, _ = boxes
    side = max(r - x, b - y)
    left = min(max(0, (x + r) // 2 - side // 2), SIZE[0] - side)
    top = min(max(0, (y + b) // 2 - side // 2), SIZE[1] - side)
    return pixels[top : top + side, left : left + side]


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_every_format_gives_the_same_items(tmp_path, kind):
    made = {"coco": coco, "yolo": yolo, "voc": voc}[kind](tmp_path)
    source = open_source(f"{kind}:{made},margin=0")
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 1]
    assert [image_id.split("#")[0].removeprefix("images/") for image_id in source.ids] == [
        "a.png",
        "a.png",
        "sub/b.png",
    ]
    flat = [(seed, box) for seed, boxes in enumerate(BOXES.values()) for box in boxes]
    for index, (seed, box) in enumerate(flat):
        np.testing.assert_array_equal(source.image(index), cut(box, picture(seed)))
        found = whole_image(source, index)
        assert found.file.name == Path(source.ids[index].split("#")[0]).name
        edges = (box[0] / SIZE[0], box[1] / SIZE[1], box[2] / SIZE[0], box[3] / SIZE[1])
        np.testing.assert_allclose(found.edges, edges, atol=1e-9)
    assert source.skipped == []


def test_ids_come_from_the_annotation(tmp_path):
    assert list(open_source(str(coco(tmp_path))).ids) == ["a.png#0", "a.png#1", "sub/b.png#10"]


def test_what_cannot_be_looked_at_is_listed(tmp_path):
    image = {"id": 0, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}
    lost = {"id": 1, "file_name": "lost.png", "width": 10, "height": 10}
    out = {"id": 2, "file_name": "../../secret.png", "width": 10, "height": 10}
    unsized = {"id": 3, "file_name": "sub/b.png"}
    boxes = [
        ([8, 4, 12, 12], 0, ""),
        ([8, 4, 0, 12], 0, "no area"),
        ([70, 4, 5, 5], 0, "outside"),
        ([8, 4, 5], 0, "no bbox"),
        (None, 0, "no bbox"),
        ([1, 1, 5, 5], 1, "missing"),
        ([1, 1, 5, 5], 2, "missing"),
        ([1, 1, 5, 5], 3, "no width"),
        ([1, 1, 5, 5], 99, "not listed"),
        ([float("nan"), 1, 5, 5], 0, "finite"),
    ]
    annotations = [
        {"id": number, "image_id": image_id, "category_id": 1, "bbox": box}
        for number, (box, image_id, _) in enumerate(boxes)
    ]
    annotations.append({"id": 10, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1})
    (tmp_path / "secret.png").write_bytes(b"")
    file = coco(tmp_path, images=[image, lost, out, unsized], annotations=annotations, categories=[])
    source = open_source(file)
    assert list(source.ids) == ["a.png#0"]
    reasons = {int(entry.id.rpartition("#")[2]): entry.reason for entry in source.skipped}
    for number, (_, _, reason) in enumerate(boxes):
        if reason:
            assert reason in reasons[number]
    assert "iscrowd" in reasons[10]
    assert all(entry.counted for entry in source.skipped)


def test_an_image_that_was_not_annotated_is_bad(tmp_path):
    file = coco(tmp_path)
    Image.fromarray(picture(0).transpose(1, 0, 2)).save(tmp_path / "images" / "a.png")  # turned since
    with pytest.raises(BadImageError, match="the annotation 64:48"):
        open_source(file).image(0)


def test_a_photo_may_be_decoded_at_reduced_scale(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((1600, 1200), Image.BICUBIC)
    smooth.save(tmp_path / "p.jpg", quality=95)
    image = {"id": 0, "file_name": "p.jpg", "width": 1600, "height": 1200}
    box = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [400, 300, 640, 640]}
    (tmp_path / "c.json").write_text(json.dumps({"images": [image], "annotations": [box], "categories": []}))
    source = open_source(f"coco:{tmp_path / 'c.json'},margin=0")
    whole, small = source.image(0), source.image(0, min_side=100)
    assert whole.shape == (640, 640, 3)
    assert small.shape == (160, 160, 3)
    shrunk = np.asarray(Image.fromarray(whole).resize((160, 160), Image.BOX))
    assert np.abs(shrunk.astype(int) - small).mean() < 2


def test_margin_and_square():
    assert crop_of(Edges(0.4, 0.4, 0.6, 0.5), (100, 100), 0) == (40, 35, 60, 55)
    assert crop_of(Edges(0, 0, 0.1, 0.4), (100, 100), 0.5) == (0, 0, 80, 80)
    assert crop_of(Edges(0, 0, 1, 0.1), (200, 100), 0) == (0, 0, 200, 100)


@given(st.lists(st.floats(-0.5, 1.5), min_size=4, max_size=4), st.floats(0, 3), st.integers(1, 99), st.integers(1, 99))
def test_a_crop_lies_in_the_image_and_shows_the_box(edges, margin, width, height):
    x, right = sorted(edges[:2])
    y, bottom = sorted(edges[2:])
    if right - x < 1e-6 or bottom - y < 1e-6 or right <= 0 or bottom <= 0 or x >= 1 or y >= 1:
        return
    left, top, end, low = crop_of(Edges(x, y, right, bottom), (width, height), margin)
    assert 0 <= left <= end <= width + 1e-9
    assert 0 <= top <= low <= height + 1e-9
    assert left <= max(0, x) * width + 1e-6
    assert end >= min(1, right) * width - 1e-6
    assert top <= max(0, y) * height + 1e-6
    assert low >= min(1, bottom) * height - 1e-6


def test_polygons_confidences_and_broken_lines(tmp_path):
    yolo(tmp_path)
    lines = ["0 0.1 0.1 0.3 0.1 0.3 0.5", "1 0.5 0.5 0.2 0.2 0.93", "x y", "", "0 0.5 0.5 0.2", "-1 0.5 0.5 0.1 0.1"]
    (tmp_path / "labels" / "a.txt").write_text("\n".join(lines))
    source = open_source(f"yolo:{tmp_path}")
    np.testing.assert_allclose(whole_image(source, 0).edges, (0.1, 0.1, 0.3, 0.5))
    np.testing.assert_allclose(whole_image(source, 1).edges, (0.4, 0.4, 0.6, 0.6))
    assert [entry.id for entry in source.skipped] == ["images/a.png#3", "images/a.png#5"]
    assert source.labels.tolist() == [0, 1, -1, 1]


def test_a_hostile_or_broken_xml_file_is_listed(tmp_path):
    voc(tmp_path)
    place = tmp_path / "Annotations"
    (place / "laughs.xml").write_text('<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>')
    (place / "cut.xml").write_text("<annotation><filename>")
    (place / "empty.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    source = open_source(f"voc:{tmp_path}")
    assert len(source) == 3
    assert sorted(entry.id for entry in source.skipped) == ["cut.xml", "empty.xml", "laughs.xml"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coco:{0}/instances.json,margin=wide", "give a number"),
        ("coco:{0}/instances.json,margin=-1", "give 0 or more"),
        ("coco:{0}/instances.json,size=3", "no option 'size'"),
        ("yolo:{0}/images,images=x", "no option 'images'"),
        ("coco:{0}/other.json", "there is no such file"),
        ("coco:{0}/list.json", "is not a COCO file"),
        ("coco:{0}/object.json", "is not a COCO file"),
        ("coco:{0}/instances.json:train", "no such file"),
        ("coco:{0}/instances.json,images={0}/nowhere", "none of its 3 boxes"),
        ("voc:{0}/images", "holds no XML files"),
        ("yolo:{0}/images", "none of its 0 boxes"),
    ],
)
def test_errors_name_the_value(tmp_path, spec, message):
    coco(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec.format(tmp_path))
    assert "\n" not in str(caught.value)


def test_boxes_go_to_workers_and_caches(tmp_path):
    source = open_source(coco(tmp_path))
    source.image(0)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301  # our own, as a data loader does
    np.testing.assert_array_equal(again.image(1), source.image(1))
    wider = BoxSource(read_coco(tmp_path / "instances.json"), margin=0.5)
    places = {stored_image(each, index) for each in (source, wider) for index in range(3)}
    assert len(places) == 6
    assert whole_image(SubsetSource(source, [2]), 0).file.name == "b.png"


def test_classes_without_names(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    source = open_source(f"yolo:{tmp_path}")
    assert source.classes == ("0", "1")
    (tmp_path / "data.yaml").write_text("names: [cat, [")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        open_source(f"yolo:{tmp_path}")
