"""The benchmark of density: that shares are those of what was measured, and that all parts are."""

import importlib

import pytest
import torch


@pytest.fixture
def density():
    return importlib.import_module("speed_density")


@pytest.fixture
def comparison(density):
    names = (density.LOOK, density.EPOCH, density.FEATURES, density.NEIGHBORS, density.WEIGHTS)
    rounds = ([0.3, 0.6, 1.2], [2.0, 3.0, 4.0], [0.2, 0.4, 0.8], [0.1, 0.1, 0.1], [0.01, 0.01, 0.01])
    return density.Comparison("Density", "note", "s", dict(zip(names, rounds, strict=True)))


def test_the_share_is_a_look_over_the_epochs_to_the_next_round_by_round(density, comparison):
    (target,) = density.findings(comparison, every=10).targets
    assert target.measured == pytest.approx(0.2 / 10)  # of 0.15, 0.2, 0.3; the medians alone would give the same
    assert target.quartiles == pytest.approx((0.0175, 0.02, 0.025))
    assert target.limit == 0.02
    (often,) = density.findings(comparison, every=5).targets
    assert not often.met
    (seldom,) = density.findings(comparison, every=20).targets
    assert seldom.met


def test_the_parts_stand_beside_the_whole(density, comparison):
    (table,) = density.findings(comparison, every=10).tables
    assert [row[0] for row in table.rows] == [density.LOOK, density.FEATURES, density.NEIGHBORS, density.WEIGHTS]
    assert table.rows[1] == (density.FEATURES, 0.4, "0.133 (0.117 to 0.167)")


def test_everything_is_measured_on_the_same_images(density, monkeypatch):
    seen = []
    compare = density.compare

    def noted(title, note, unit, candidates, effort):
        seen.extend(candidates)
        return compare(title, note, unit, candidates, effort)

    monkeypatch.setattr(density, "compare", noted)
    size = density.Size(images=32, step=density.StepSize(width=4, batch=16, image_size=8))
    found = density.compare_look(size, density.Effort(rounds=1, seconds=0, warmup=0), torch.device("cpu"))
    assert list(found.samples) == [candidate.name for candidate in seen]
    assert all(len(values) == 1 and values[0] > 0 for values in found.samples.values())
    assert "32 images, ResNet-18 of width 4, 8 px, batch 16" in found.title


def test_the_command_line(density, comparison, monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda _threads: None)  # the suite's own number stays
    asked = []

    def compare_look(size, effort, device):
        asked.append((size.images, size.step.width, effort.rounds, device))
        return comparison

    monkeypatch.setattr(density, "compare_look", compare_look)
    density.main(["--images", "64", "--width", "8", "--every", "20", "--device", "cpu", "--quick"])
    assert asked == [(64, 8, 3, torch.device("cpu"))]
    printed = capsys.readouterr().out
    assert "Looks every 20 epochs as a share of training | ≤ 0.02 | 0.010" in printed
    assert "### A look and its parts" in printed
