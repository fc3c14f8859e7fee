"""Scores that an earlier call has left serve again, and are not lost."""

import numpy as np
import pytest

import sdclr
from sdclr.data.sources import ArraySource
from sdclr.mining.drop import find_duplicates
from sdclr.mining.select import select

VECTORS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
VECTORS[50:] = VECTORS[:10]  # near in the embedding, and the same pictures
PIXELS = np.random.default_rng(1).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
PIXELS[50:] = PIXELS[:10]


@pytest.fixture
def images():
    return ArraySource(PIXELS, name="noise")


@pytest.fixture
def mined(images, tmp_path):
    return sdclr.mine(images, encoder=VECTORS, out=tmp_path)


@pytest.fixture
def computed(monkeypatch):
    """What is computed anew, by name."""
    asked = []
    for name in ("_scored", "_map", "first_to_label"):
        real = getattr(sdclr.mining.mine, name)

        def spy(*given, name=name, real=real, **options):
            asked.append(name)
            return real(*given, **options)

        monkeypatch.setattr(sdclr.mining.mine, name, spy)
    return asked


def test_choosing_and_duplicates_take_up_what_mining_left(images, mined, computed, tmp_path):
    chosen = select(images, 5, encoder=VECTORS, out=tmp_path)
    found = find_duplicates(images, encoder=VECTORS, out=tmp_path)
    assert computed == []
    np.testing.assert_array_equal(chosen.scores.rarity, mined.rarity)
    assert found.groups == mined.duplicates
    assert len(found.groups) == 10
    assert {pair.how for pair in found.pairs} == {"same pixels"}


def test_the_choice_is_the_same_as_without_them(images, mined, tmp_path):
    assert mined.label_next
    again = select(images, 20, encoder=VECTORS, out=tmp_path)
    alone = select(images, 20, encoder=VECTORS, out=tmp_path / "other")
    assert again.ids == alone.ids
    assert alone.scores.projection is None  # nothing there needs a map
    assert sdclr.Scores.read(tmp_path / "other" / "scores.parquet").label_next == ()


@pytest.mark.usefixtures("mined")
def test_scores_by_other_settings_are_computed_and_replace_none(images, computed, tmp_path):
    before = (tmp_path / "scores.parquet").read_bytes()
    other = sdclr.MineConfig(score="distance", k=(3,))
    chosen = select(images, 5, encoder=VECTORS, config=other, out=tmp_path)
    assert chosen.scores.score == "distance"
    assert computed == ["_scored"]
    assert (tmp_path / "scores.parquet").read_bytes() == before


@pytest.mark.usefixtures("mined")
def test_scores_of_other_features_are_replaced(images, computed, tmp_path):
    chosen = select(images, 5, encoder=VECTORS[::-1].copy(), out=tmp_path)
    assert computed == ["_scored"]
    kept = sdclr.Scores.read(tmp_path / "scores.parquet")
    np.testing.assert_array_equal(kept.rarity, chosen.scores.rarity)


@pytest.mark.usefixtures("mined")
def test_damaged_files_do_not_serve(images, computed, tmp_path):
    (tmp_path / "duplicates.json").write_text("{")
    find_duplicates(images, encoder=VECTORS, out=tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    select(images, 5, encoder=VECTORS, out=tmp_path)
    assert computed == ["_scored", "_scored"]
