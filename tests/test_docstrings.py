"""Every public name has an example in its docstring, and every example of the package gives what it shows."""

import ast
import doctest
import importlib
import inspect
import io
import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import sdclr

SOURCE = Path(sdclr.__file__).parent
PUBLIC = [name for name in sdclr.__all__ if name != "__version__"]
MODULES = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text())
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

COUNTS = {"circle": 30, "square": 24, "star": 6}
"""Images of each class in the folder `images`; the last circle and the last square are copies of the first ones."""
SHADES = {"circle": (70, 120, 190), "square": (90, 160, 80)}
"""Usual color of the background of the two frequent classes."""
MARKS = "path,id,mark,label\n,circle/00.jpg,,ring\n,circle/01.jpg,,ring\n,square/00.jpg,drop,\n,star/00.jpg,keep,\n"
"""The file `marks.csv`."""


def _shape(rng: np.random.Generator, kind: str) -> Image.Image:
    """A shape on a blurred pattern of its own, which tells it from all others. Stars have backgrounds of any color."""
    shade = rng.uniform(0, 255, 3) if kind not in SHADES else SHADES[kind] + rng.normal(0, 5, 3)
    pattern = np.clip(shade + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pattern).resize((64, 64), Image.Resampling.BICUBIC)
    (x, y), side = rng.integers(26, 38, 2).tolist(), int(rng.integers(16, 22))
    color = tuple(rng.integers(150 if kind in SHADES else 0, 256, 3).tolist())
    box, draw = (x - side, y - side, x + side, y + side), ImageDraw.Draw(picture)
    if kind == "circle":
        draw.ellipse(box, fill=color)
    elif kind == "square":
        draw.rectangle(box, fill=color)
    else:
        turns = np.arange(10) * np.pi / 5
        lengths = np.where(np.arange(10) % 2, side / 2.5, side)
        points = np.stack([x + lengths * np.sin(turns), y - lengths * np.cos(turns)], axis=1)
        draw.polygon([tuple(point) for point in points.tolist()], fill=color)
    return picture


def _draw_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, count in COUNTS.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            _shape(rng, kind).save(folder / kind / f"{number:02d}.jpg", quality=95)
    with Image.open(folder / "circle/00.jpg") as first:  # written again: a near-duplicate
        first.save(folder / "circle/29.jpg", quality=80)
    shutil.copyfile(folder / "square/00.jpg", folder / "square/23.jpg")


def _list_attributes(folder: Path) -> None:
    """Two manifests, each with the attributes of every other image."""
    attributes = {"circle": "round", "square": "straight", "star": "straight;pointed"}
    files = sorted(folder.glob("images/*/*.jpg"))
    for name, listed in (("train", files[::2]), ("test", files[1::2])):
        rows = [f"{file.relative_to(folder)},{attributes[file.parent.name]}" for file in listed]
        (folder / f"{name}.csv").write_text("\n".join(["path,attributes", *rows, ""]))


def _write_cifar(folder: Path) -> None:
    """A data set with the numbers of CIFAR-10; all its images are one pixel."""
    folder.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    for split, each in (("train", 5000), ("test", 1000)):
        labels = np.tile(np.arange(10), each)
        images = pa.array([buffer.getvalue()] * len(labels), pa.binary())
        pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{split}-00000-of-00001.parquet")


def _write_boxes(folder: Path) -> None:
    """One image with two boxes, in the layout of COCO."""
    folder.mkdir()
    Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)).save(folder / "plate.png")
    boxes = [(1, [10, 20, 30, 20]), (2, [50, 5, 20, 20])]
    annotations = {
        "images": [{"id": 1, "file_name": "plate.png", "width": 90, "height": 60}],
        "annotations": [{"id": number, "image_id": 1, "category_id": 1, "bbox": box} for number, box in boxes],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "instances.json").write_text(json.dumps(annotations))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples name: `images`, `train.csv`, `test.csv`, `marks.csv`, `cells`, `cifar10` and `runs/digits`."""
    folder = tmp_path_factory.mktemp("world")
    _draw_images(folder / "images")
    _list_attributes(folder)
    _write_cifar(folder / "cifar10")
    _write_boxes(folder / "cells")
    (folder / "marks.csv").write_text(MARKS)
    config = sdclr.PretrainConfig(
        encoder=sdclr.EncoderConfig(width=4),
        head=sdclr.HeadConfig(dim=8),
        views=sdclr.ViewConfig(image_size=8),
        damage=sdclr.DamageConfig(ratio=0.5),
        steps=4,
        epochs=1,
        batch_size=64,
    )
    runtime = sdclr.Runtime(device="cpu", amp="none", threads=1, progress=False)
    sdclr.pretrain("digits", config, run=folder / "runs/digits", runtime=runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for encoder in (None, "runs/digits"):  # once, because many examples take it up
            sdclr.mine("images", encoder=encoder)
    return folder


def _refuse(*_: object, **__: object) -> None:
    raise OSError("examples use no network")


@pytest.fixture
def _in_a_copy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples run in a copy of `world`, each with its own, and without a network."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "getaddrinfo", _refuse)


def _names() -> dict[str, Any]:
    """What examples need not import."""
    return {"sdclr": sdclr, "np": np, "torch": torch, "nn": nn}


def _check(test: doctest.DocTest) -> None:
    """Run the examples of one docstring."""
    told: list[str] = []
    failed = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=told.append).failed
    if failed:
        pytest.fail("".join(told), pytrace=False)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_its_sections(name: str) -> None:
    thing = getattr(sdclr, name)
    text = inspect.getdoc(thing) or ""
    before, found, example = text.partition("\nExamples:\n")
    assert found, "has no block `Examples:`"
    assert example.startswith("    >>> ")
    assert not re.search(r"^\S", example, flags=re.MULTILINE), "the block `Examples:` is not the last one"
    if inspect.isroutine(thing):
        signature = inspect.signature(thing)
        assert not signature.parameters or "\nArgs:\n" in before, "has no block `Args:`"
        nothing = signature.return_annotation in {None, Iterator[None]}
        assert nothing or "\nReturns:\n" in before, "has no block `Returns:`"


@pytest.mark.usefixtures("_in_a_copy")
@pytest.mark.parametrize("name", PUBLIC)
def test_examples_of_a_public_name(name: str) -> None:
    tests = doctest.DocTestFinder().find(getattr(sdclr, name), name, globs=_names())
    assert any(test.examples for test in tests)
    for test in tests:
        _check(test)


def _docstrings(path: Path) -> Iterator[doctest.DocTest]:
    """The docstrings of all functions and classes of a file, those inside others too."""
    module = importlib.import_module(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
    parents: list[tuple[str, ast.AST]] = [("", ast.parse(path.read_text()))]
    for prefix, parent in parents:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                name = prefix + node.name
                parents.append((f"{name}.", node))
                text, globs = ast.get_docstring(node) or "", vars(module) | _names()
                yield doctest.DocTestParser().get_doctest(text, globs, name, str(path), node.lineno)


@pytest.mark.usefixtures("_in_a_copy")
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_other_examples(path: Path) -> None:
    if path.name == "hugging_face.py":
        pytest.importorskip("datasets", reason="needs the extra datasets")
    tests = list(_docstrings(path))
    prompts = re.findall(r"^ +>>> ", path.read_text(), flags=re.MULTILINE)
    assert sum(len(test.examples) for test in tests) == len(prompts), "an example stands outside of docstrings"
    for test in tests:
        if test.name not in PUBLIC:  # those are run as a user would, without the names of their module
            _check(test)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_section_of_a_docstring_appears_twice(path: Path) -> None:
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, documented):
            sections = re.findall(r"^([A-Z][a-z]+):$", ast.get_docstring(node) or "", flags=re.MULTILINE)
            assert len(sections) == len(set(sections)), f"{getattr(node, 'name', path.name)}: {sections}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_example_is_skipped(path: Path) -> None:
    assert "doctest: +SKIP" not in path.read_text()
