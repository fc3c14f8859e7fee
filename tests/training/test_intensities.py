"""The range of intensities of a training is that of all that follows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import sdclr
from sdclr.data.intensities import intensities_of
from sdclr.data.sources import open_source
from sdclr.features.extract import evaluation_view, extract_features
from sdclr.intensities import Intensities
from sdclr.training.config import PretrainConfig
from sdclr.training.resolve import resolve_encoder
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime


def written(place: Path, top: float, count: int = 40) -> Path:
    """Digits in 16-bit files, the brightest pixel of which is `top`."""
    digits = load_digits()
    for number in range(count):
        part = place / str(digits.target[number])
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] / 16 * top).astype(np.uint16)).save(part / f"{number:02}.tif")
    return place


@pytest.fixture(scope="module")
def trained(tiny: PretrainConfig, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("deep")
    images = written(folder / "cells", 4095)
    return images, sdclr.pretrain(images, replace(tiny, epochs=1), run=folder / "run", runtime=runtime)


def test_a_run_and_its_encoder_say_the_range(trained: tuple[Path, Run]) -> None:
    images, run = trained
    seen = open_source(images).intensities
    assert seen.deep == (0, 4095)
    assert run.intensities == seen
    assert sdclr.load_encoder(run.path).preprocessing.intensities == seen


def test_other_images_are_seen_by_the_range_of_the_training(trained: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = trained
    dark = written(tmp_path / "dark", 1000)
    assert open_source(dark).intensities.deep == (0, 1000)
    resolved = resolve_encoder(run, open_source(dark))
    assert resolved.preprocessing.intensities == Intensities(deep=(0, 4095))
    found = extract_features(resolved.encoder, open_source(dark), preprocessing=resolved.preprocessing)
    raw = np.asarray(Image.open(dark / "0" / "00.tif"), np.float64)
    by_hand = np.rint(raw * 255 / 4095).astype(np.uint8)[..., None].repeat(3, 2)
    view = torch.from_numpy(evaluation_view(by_hand, resolved.preprocessing)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        np.testing.assert_allclose(found.values[0], resolved.encoder(view)[0].numpy(), rtol=1e-5)


def test_commands_say_by_which_range_they_looked(trained: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = trained
    dark = written(tmp_path / "dark", 1000)
    scores = sdclr.mine(dark, encoder=run, out=tmp_path / "mined")
    assert scores.about["intensities"]["deep"] == [0, 4095]
    sdclr.embed(dark, tmp_path / "vectors.parquet", encoder=run)
    sdclr.embed(f"{dark},intensities=0,1000", tmp_path / "own.parquet", encoder=run)
    kept, own = (sdclr.features.embeddings.read_embeddings(tmp_path / f"{name}.parquet") for name in ("vectors", "own"))
    assert kept.intensities == Intensities(deep=(0, 4095))
    assert own.intensities.deep == (0, 1000), "a person's choice counts most"
    assert np.abs(kept.values - own.values).max() > 1e-3
    file = dark / "0" / "00.tif"
    near = sdclr.neighbors(tmp_path / "vectors.parquet", [str(file)], 1, encoder=run)
    assert near.rows[0].id == "0/00.tif"
    assert near.rows[0].distance == pytest.approx(0, abs=1e-5)


def test_an_export_says_the_range(trained: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = trained
    sdclr.export(run, tmp_path / "export", ["timm"])
    told = json.loads((tmp_path / "export" / "preprocessing.json").read_text())
    assert told["intensities"]["deep"] == [0, 4095]
    assert sdclr.load_encoder(tmp_path / "export").preprocessing.intensities == Intensities(deep=(0, 4095))


def test_a_run_that_goes_on_keeps_its_range(
    tiny: PretrainConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = written(tmp_path / "cells", 4095)
    with monkeypatch.context() as patch:
        patch.setattr("sdclr.training.pretrain.save_encoder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sdclr.pretrain(images, replace(tiny, epochs=1), run=tmp_path / "run", runtime=runtime)
    written(images, 2000)  # the files have changed meanwhile
    with pytest.raises(sdclr.InputError, match=r"other intensities \(16-bit images: intensities 0 to 4,095"):
        sdclr.pretrain(f"{images},intensities=0,2000", replace(tiny, epochs=1), run=tmp_path / "run", runtime=runtime)
    with pytest.warns(UserWarning, match="40 images have changed"):
        run = sdclr.pretrain(images, replace(tiny, epochs=1), run=tmp_path / "run", runtime=runtime)
    assert sdclr.load_encoder(run.path).preprocessing.intensities == Intensities(deep=(0, 4095))


def test_a_collection_that_grows_keeps_its_range(trained: tuple[Path, Run], tmp_path: Path) -> None:
    images = written(tmp_path / "cells", 4095, 20)
    encoder = sdclr.load_encoder(trained[1].path)
    encoder.preprocessing = replace(encoder.preprocessing, intensities=None)
    first = sdclr.mine(images, encoder=encoder, out=tmp_path / "mined")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(images / "0" / "bright.tif")
    assert open_source(images).intensities.deep[1] > 10_000
    again = sdclr.mine(images, encoder=encoder, out=tmp_path / "mined")
    assert again.about["intensities"] == first.about["intensities"]
    others = written(tmp_path / "others" / "cells", 1000, 20)
    for file in others.rglob("*.tif"):
        file.rename(file.with_name(f"x{file.name}"))
    strange = sdclr.mine(others, encoder=encoder, out=tmp_path / "mined")
    assert strange.about["intensities"]["deep"] == [0, 1000], "other images have a range of their own"


def test_tests_are_seen_by_the_range_of_the_training_images(tmp_path: Path) -> None:
    train, test = (written(tmp_path / name, top) for name, top in (("train", 4095), ("test", 1000)))
    config = sdclr.FinetuneConfig(epochs=1, image_size=8, batch_size=16)
    result = sdclr.finetune(train, test, config, start="scratch", out=tmp_path / "out", amp="none")
    assert result.description["intensities"]["deep"] == [0, 4095]
    assert intensities_of(open_source(test))[0].deep == (0, 1000)
