"""Folders of hardly any images, of one class, of one picture and of nothing readable: results, or one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sdclr
from sdclr.progress import reporting_to

COLLECTIONS = ["0", "1", "2", "3", "5", "11", "one class", "one picture", "unreadable"]


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))
    return sdclr.wrap_encoder(module, image_size=32)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    kind: str = request.param
    rng = np.random.default_rng(0)
    place = tmp_path / "images"
    place.mkdir()
    for number in range(int(kind) if kind.isdigit() else 11):
        part = place / ("a" if kind == "one class" else "ab"[number % 2])
        part.mkdir(exist_ok=True)
        if kind == "unreadable":
            (part / f"{number}.png").write_bytes(b"no image")
        else:
            rng = np.random.default_rng(0) if kind == "one picture" else rng
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(part / f"{number}.png")
    return place


def pretrain(images: str, out: Path) -> None:
    small = sdclr.EncoderConfig(name="resnet20", width=4)
    config = replace(sdclr.default_config(images), epochs=1, encoder=small, optim=sdclr.OptimConfig())
    runtime = sdclr.Runtime(device="cpu", amp="none", threads=1, progress=False)
    sdclr.report([sdclr.pretrain(images, config, run=out / "run", runtime=runtime)])


def first_neighbors(images: str, encoder: Any) -> None:
    source = sdclr.open_source(images)
    found = sdclr.neighbors(images, [source.ids[0]], encoder=encoder)
    assert len(found.rows) == min(10, len(source) - 1)


def fine_tune(images: str, encoder: Any, out: Path) -> None:
    config = sdclr.FinetuneConfig(epochs=1, method="balanced_softmax")
    sdclr.finetune(images, images, config, start=encoder, out=out / "tuned", amp="none")


WORK: dict[str, Callable[[str, Any, Path], object]] = {
    "info": lambda images, _encoder, _out: sdclr.inspect_images(images),
    "mine": lambda images, encoder, out: sdclr.mine(images, encoder=encoder, out=out / "mined"),
    "select": lambda images, encoder, out: sdclr.select(images, 1, encoder=encoder, out=out / "chosen"),
    "duplicates": lambda images, encoder, out: sdclr.find_duplicates(images, encoder=encoder, out=out / "found"),
    "embed": lambda images, encoder, out: sdclr.embed(images, out / "e.parquet", encoder=encoder),
    "diagnose": lambda images, encoder, _out: sdclr.diagnose(images, encoder=encoder),
    "evaluate": lambda images, encoder, out: sdclr.evaluate(images, images, encoder=encoder, out=out / "probed"),
    "neighbors": lambda images, encoder, _out: first_neighbors(images, encoder),
    "finetune": fine_tune,
    "pretrain": lambda images, _encoder, out: pretrain(images, out),
}
FAILS = {
    "0": set(WORK),
    "1": {"diagnose", "evaluate", "neighbors", "finetune", "pretrain"},
    "2": {"diagnose", "evaluate", "pretrain"},
    "3": {"diagnose", "pretrain"},
    "5": {"diagnose", "pretrain"},
    "11": {"diagnose"},
    "one class": {"diagnose", "evaluate", "finetune"},
    "one picture": {"diagnose"},
    "unreadable": set(WORK) - {"info"},
}
"""What ends in a line for which collection; all else gives a result."""


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(("folder", "kind"), [(kind, kind) for kind in COLLECTIONS], indirect=["folder"])
@pytest.mark.filterwarnings("ignore")
def test_a_result_or_one_line(folder: Path, kind: str, work: str, encoder: Any, tmp_path: Path) -> None:
    said = None
    try:
        WORK[work](str(folder), encoder, tmp_path)
    except sdclr.InputError as error:
        said = str(error)
    assert (said is not None) == (work in FAILS[kind]), said
    if said is not None:
        assert "\n" not in said
        assert "1 to 0" not in said


@pytest.mark.parametrize("folder", ["3"], indirect=True)
def test_fewer_neighbors_are_told(folder: Path, encoder: Any) -> None:
    told = []

    class Listens:
        def begin(self, stage: object) -> None: ...
        def update(self, stage: object) -> None: ...
        def end(self, stage: object) -> None: ...
        def tell(self, text: str) -> None:
            told.append(text)

    with reporting_to(Listens()):
        first_neighbors(str(folder), encoder)
    assert told == ["2 neighbors of each query instead of 10: there are no more images"]
