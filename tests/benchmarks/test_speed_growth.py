"""How cost grows: that the exponent is that of the data, and that each kind of work is of the size it says."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def growth():
    return importlib.import_module("speed_growth")


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_is_that_of_the_curve(growth, power):
    counts = [10, 40, 160]
    assert growth.exponent(counts, [3 * n**power for n in counts]) == pytest.approx(power)


@pytest.mark.parametrize("kind", ["views", "masks", "features", "knn", "tiled", "dense"])
def test_every_kind_of_work_can_be_measured(growth, kind):
    seconds, _ = growth.measure(kind, 64, rounds=1)
    assert 0 < seconds < 60


def test_views_are_drawn_of_every_image(growth, monkeypatch):
    seen = []
    render = growth.ResidentLoader.epoch

    def noted(self, epoch):
        for batch in render(self, epoch):
            seen.extend(batch.indices.tolist())
            yield batch

    monkeypatch.setattr(growth.ResidentLoader, "epoch", noted)
    growth._views(1024)()
    assert sorted(seen) == list(range(1024))


def test_masks_are_chosen_among_all_weights(growth):
    masks = growth._masks(1000)()
    assert masks["weight"].sum() == 100


def test_what_is_found_is_told_and_drawn(growth, monkeypatch, tmp_path):
    def measured(kind, n, threads):
        assert threads == 2
        return 1e-6 * n ** growth.CURVES[kind].time, 2**20 + n

    monkeypatch.setattr(growth, "_in_a_fresh_process", measured)
    findings = growth.grow(growth.quick(), tmp_path, threads=2)
    fits, points = findings.tables
    assert [row[2] for row in fits.rows] == pytest.approx([growth.CURVES[kind].time for kind in growth.quick()])
    assert len(points.rows) == sum(map(len, growth.quick().values()))
    assert findings.figures == ["growth.svg"]
    assert (tmp_path / "growth.svg").stat().st_size > 1000
    assert "Exponents" in findings.markdown()


def test_memory_of_a_size_is_seen_in_a_process_of_its_own(growth):
    if not growth.STATUS.exists():
        pytest.skip("the kernel does not tell")
    peaks = [growth._in_a_fresh_process("masks", n, 1)[1] for n in (2**20, 2**23)]
    # A copy of the magnitudes and the masks at the least: five bytes for each weight beside its own four.
    assert np.diff(peaks)[0] > 9 * (2**23 - 2**20)
