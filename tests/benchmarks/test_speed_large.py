"""The benchmark of large images at sizes that take no time: that it runs, and compares the same work."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdclr.data.sources import ArraySource

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def _scripts_import_each_other():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS / "speed"), *sys.path])
        yield


@pytest.fixture
def large():
    return importlib.import_module("speed_large")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _scripts_import_each_other):
    return importlib.import_module("speed_large").make_jpegs(tmp_path_factory.mktemp("jpegs"), count=6)


@pytest.fixture
def effort():
    return importlib.import_module("speed_harness").Effort(rounds=2, seconds=0)


def bytes_of(folder):
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_jpegs_are_the_same_again_and_differ_from_each_other(large, folder, tmp_path):
    again = large.make_jpegs(tmp_path / "again", count=6)
    assert bytes_of(again) == bytes_of(folder)
    assert len(set(bytes_of(folder))) == 6
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.size == (500, 375)
            assert np.asarray(image).std() > 20
    (again / "00000.jpg").write_bytes(b"kept")
    assert bytes_of(large.make_jpegs(again, count=6))[0] == b"kept"


def test_every_second_jpeg_is_a_mosaic_of_the_images_given(large, tmp_path, monkeypatch):
    red = ArraySource(np.full((3, 32, 32, 3), (200, 0, 0), dtype=np.uint8))
    monkeypatch.setattr(large, "open_source", lambda *_, **__: red)
    made = large.make_jpegs(tmp_path / "mosaics", count=4, data=tmp_path)
    pixels = [np.asarray(Image.open(path)).reshape(-1, 3) for path in sorted(made.iterdir())]
    for index, image in enumerate(pixels):
        assert (np.abs(image.astype(int) - (200, 0, 0)).max() <= 2) == (index % 2 == 1)


def test_mosaics_of_cifar10(large, cifar10_dir, tmp_path):
    made = large.make_jpegs(tmp_path / "mosaics", count=2, data=cifar10_dir)
    with Image.open(made / "00001.jpg") as image:
        assert np.asarray(image).std() > 20


def test_all_draw_views_of_decoded_images(large, effort):
    images = torch.randint(256, (4, 3, 48, 48), dtype=torch.uint8)
    found = large.compare_large(images, large.large_views(batch=2, image_size=24), effort)
    assert list(found.samples)[:2] == [large.OPENCV, large.TORCH]
    assert len(found.samples) == 5
    assert all(len(values) == 2 and min(values) > 0 for values in found.samples.values())


def test_every_recipe_has_its_blur(large):
    size = large.large_views(batch=1, image_size=16)
    views = importlib.import_module("speed_views")
    torchvision = large._with_blur(views.torchvision_view(size.config), size.config).transforms
    blur = torchvision[-2]
    assert blur.p == size.config.blur
    assert tuple(blur.transforms[0].sigma) == size.config.blur_sigma
    assert isinstance(torchvision[-1], large.v2.ToDtype)
    assert views.lightly_view(size.config).transform.transforms[6].prob == size.config.blur
    assert views.kornia_views(size.config)[-1].p == size.config.blur


@pytest.mark.parametrize("workers", [0, 1])
def test_both_read_the_same_files(large, folder, effort, monkeypatch, workers):
    passes = []

    def counted(batches):
        passes.append([[tuple(view.shape) for view in _views(batch)] for batch in batches])

    monkeypatch.setattr(large, "_exhaust", counted)
    found = large.compare_end_to_end(folder, workers=workers, effort=effort, batch=2, image_size=32)
    assert list(found.samples) == [large.LATER_EPOCHS, large.FIRST_EPOCH, large.NO_CACHE, large.LIGHTLY_FILES]
    assert all(len(values) == 2 and min(values) > 0 for values in found.samples.values())
    assert len(passes) == 1 + 4 * 3  # the cache is filled; then a round of warming up, and two
    assert all(shapes == [[(2, 3, 32, 32)] * 2] * 3 for shapes in passes)


def _views(batch):
    views = (batch.view1, batch.view2) if hasattr(batch, "view1") else batch[0]
    for view in views:
        assert view.dtype == torch.float32
        assert 0 <= view.min() < view.max() <= 1
        assert view.mean() > 0.05
    return views


def test_the_time_is_told_stage_by_stage(large, folder):
    table = large.where_time_goes(folder, count=3, rounds=2, image_size=32)
    assert "read from the cache, sdclr" in dict(table.rows)
    assert all(isinstance(taken, str) or 0 <= taken < 1000 for _, taken in table.rows)
    assert str(folder) not in table.note


def test_it_runs_as_a_script(large, tmp_path, capsys):
    large.main(["--folder", str(tmp_path / "new"), "--count", "2", "--workers", "0", "--batch", "2", "--rounds", "1"])
    told = capsys.readouterr().out
    assert large.LIGHTLY_FILES in told
    assert "decode, Pillow" in told
