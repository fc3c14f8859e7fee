"""Near-duplicates in what is chosen to be labeled."""

import numpy as np
from PIL import Image

from sdclr.mining.mine import mine
from sdclr.mining.select import select


def test_copies_come_last(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        picture = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
            (96, 96), Image.Resampling.BICUBIC
        )
        picture.save(tmp_path / f"{number:02}.png")
        if number < 5:
            picture.resize((64, 64)).save(tmp_path / f"copy-{number:02}.png")
    chosen = select(tmp_path, "all", out=tmp_path / "out")
    assert len(chosen.scores.duplicates) == 5
    assert sorted(chosen.ids) == sorted(chosen.scores.ids)
    assert not any(name.startswith("copy") for name in chosen.ids[:12])
    few = select(tmp_path, 6, labeled=["copy-00.png"], out=tmp_path / "out")
    assert not any(name.startswith("copy") for name in few.ids)


def test_suggestions_come_from_a_bounded_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr("sdclr.mining.suggest.LOOKED_AT", 50)
    asked = []

    def chosen(features, _rarity, budget, **_options):
        asked.append(len(features))
        return np.arange(budget)

    monkeypatch.setattr("sdclr.mining.suggest.select_samples", chosen)
    vectors = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
    np.save(tmp_path / "e.npy", vectors)
    scores = mine(tmp_path / "e.npy", out=tmp_path / "out")
    assert asked == [50]
    assert len(set(scores.label_next)) == 50
