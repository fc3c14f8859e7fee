"""Every public function that takes images takes the same things: a path, its text, a source, an array."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sdclr
from sdclr.data.sources import ImageSource, Source

FUNCTIONS = [name for name in sdclr.__all__ if inspect.isfunction(getattr(sdclr, name))]


def parts(hint: Any) -> set[Any]:
    return {hint, *(part for option in get_args(hint) for part in parts(option))}


def takes_images(name: str) -> list[str]:
    """The arguments of a function that are images."""
    hints = get_type_hints(getattr(sdclr, name))
    return [argument for argument, hint in hints.items() if argument != "return" and Source in parts(hint)]


def test_a_text_in_place_of_a_list_is_an_error():
    for call, name in (
        (lambda: sdclr.neighbors("digits", "hat/a.jpg"), "queries"),
        (lambda: sdclr.select("digits", 2, labeled="next.csv"), "labeled"),
        (lambda: sdclr.report("runs/a"), "runs"),
        (lambda: sdclr.export("runs/a", "exported", "onnx"), "formats"),
    ):
        with pytest.raises(sdclr.InputError, match=f"{name} is the text '.*': give a list of"):
            call()


def test_such_functions_are_found() -> None:
    found = {name for name in FUNCTIONS if takes_images(name)}
    assert found >= {
        "mine",
        "embed",
        "default_config",
        "pretrain",
        "write_page",
        "report",
        "neighbors",
        "inspect_images",
    }
    assert found >= {"select", "diagnose", "evaluate", "evaluate_attributes", "finetune", "find_duplicates"}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if takes_images(name)])
def test_the_type_of_images_is_the_same_everywhere(name: str) -> None:
    hints = get_type_hints(getattr(sdclr, name))
    for argument in takes_images(name):
        assert parts(hints[argument]) >= set(get_args(ImageSource)), f"{name}({argument})"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return place


def test_settings_and_pages_take_paths(folder: Path, tmp_path: Path) -> None:
    source = sdclr.open_source(folder)
    array = np.stack([source.image(number) for number in range(len(source))])
    assert sdclr.default_config(str(folder)) == sdclr.default_config(folder) == sdclr.default_config(source)
    assert sdclr.default_config(array) == sdclr.default_config(source)
    with pytest.raises(sdclr.InputError, match="does not exist"):
        sdclr.default_config("./no such folder")
    vectors = np.random.default_rng(0).random((9, 4), dtype=np.float32)
    scores = sdclr.mine(str(folder), encoder=vectors, out=tmp_path / "mined")
    pages = [
        sdclr.write_page(tmp_path / f"{number}.html", scores, images).read_text()
        for number, images in enumerate((str(folder), folder, source))
    ]
    assert len({page.replace(f"{number}_files", "files") for number, page in enumerate(pages)}) == 1


def tiny_encoder() -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))
    return sdclr.wrap_encoder(module, image_size=24)


def first_id(images: Any) -> str:
    return sdclr.open_source(images).ids[0]


def marked(images: Any, place: Path) -> Path:
    (place / "marks.csv").write_text(f"id,mark\n{first_id(images)},drop\n")
    return place / "marks.csv"


def mined(images: Any, place: Path) -> Any:
    return sdclr.mine(images, encoder=VECTORS, out=place)


VECTORS = np.random.default_rng(0).random((9, 4), dtype=np.float32)
WORK: dict[str, Callable[[Any, Path], object]] = {
    "apply_marks": lambda images, place: len(
        sdclr.apply_marks(marked(images, place), images, links=place / "kept").images.kept
    ),
    "select": lambda images, place: sdclr.select(images, 3, encoder=VECTORS, out=place).positions.tolist(),
    "diagnose": lambda images, _: sdclr.diagnose(images, encoder=tiny_encoder()),
    "embed": lambda images, place: sdclr.embed(images, place / "e.parquet", encoder=tiny_encoder())[0],
    "evaluate": lambda images, _: sdclr.evaluate(images, images, encoder=tiny_encoder()),
    "evaluate_attributes": lambda images, _: sdclr.evaluate_attributes(images, images, encoder=tiny_encoder()),
    "find_duplicates": lambda images, place: len(sdclr.find_duplicates(images, encoder=VECTORS, out=place).groups),
    "finetune": lambda images, place: sdclr.finetune(images, images, start="scratch", out=place / "out"),
    "default_config": lambda images, _: sdclr.default_config(images),
    "inspect_images": lambda images, _: sdclr.inspect_images(images).sizes,
    "mine": lambda images, place: mined(images, place).rank.tolist(),
    "neighbors": lambda images, _: [
        round(row.distance, 4) for row in sdclr.neighbors(images, [first_id(images)], 2, encoder=tiny_encoder()).rows
    ],
    "open_source": lambda images, _: len(sdclr.open_source(images)),
    "pack": lambda images, place: sdclr.pack(images, place / "shards").images,
    "pretrain": lambda images, place: sdclr.pretrain(images, TOO_LARGE, run=place / "run"),
    "report": lambda images, place: sdclr.report([place / "no run"], source=images),
    "write_page": lambda images, place: sdclr.write_page(place / "p.html", mined(images, place), images).name,
}
TOO_LARGE = sdclr.PretrainConfig(batch_size=512)
"""Training ends in a line before its first step: the images were opened by then."""


def outcome(work: str, images: Any, place: Path) -> str:
    place.mkdir()
    try:
        return str(WORK[work](images, place))
    except sdclr.InputError as error:
        return re.sub(r"\S*(images|array|no run)\S*", "X", str(error))


def test_all_functions_are_tried() -> None:
    assert {name for name in FUNCTIONS if takes_images(name)} == set(WORK)


@pytest.mark.parametrize("work", WORK)
@pytest.mark.filterwarnings("ignore")
def test_paths_sources_and_arrays_do_the_same(work: str, folder: Path, tmp_path: Path) -> None:
    source = sdclr.open_source(folder)
    array = np.stack([source.image(number) for number in range(len(source))])
    forms = {"text": str(folder), "path": folder, "source": source, "array": array}
    found = {form: outcome(work, images, tmp_path / form) for form, images in forms.items()}
    assert len(set(found.values())) == 1, found
    assert "is not a source" not in found["array"]
