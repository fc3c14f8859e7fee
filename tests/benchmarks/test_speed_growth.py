"""The benchmark of growth: that exponents are those of what was measured, and that it would see time and memory."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

MIB = 2**20


@pytest.fixture
def growth():
    return importlib.import_module("speed_growth")


def _curve(growth, part, time, memory, *, ns=(1_000, 4_000, 16_000)):
    points = [growth.Point(n=n, seconds=1e-6 * n**time, peak=round(MIB * (n / 1_000) ** memory)) for n in ns]
    return growth.Curve(part, points)


@pytest.fixture
def measured(growth):
    return growth.Growth([_curve(growth, "tiled", 2, 1), _curve(growth, "knn", 1.5, 0)])


def test_exponents_are_those_of_a_power_law(growth, measured):
    tiled, knn = measured.curves
    assert (tiled.time, tiled.memory) == pytest.approx((2, 1), abs=1e-6)
    assert (knn.time, knn.memory) == pytest.approx((1.5, 0), abs=1e-6)
    bent = growth.Curve("knn", [growth.Point(n=n, seconds=s, peak=1) for n, s in ((1, 1), (10, 10), (100, 10_000))])
    assert bent.time == pytest.approx(2)  # least squares, and not the ends alone: (0, 1, 4) over (0, 1, 2)


def test_what_grows_faster_than_expected_misses_its_target(growth, measured):
    assert [target.met for target in measured.targets()] == [True, True, False, True]
    assert [target.limit for target in measured.targets()] == pytest.approx(
        [expected + growth.TOLERANCE for expected in (2, 1, 1, 0)]
    )


def test_the_table_tells_range_costs_and_both_exponents(measured):
    row = measured.table().rows[0]
    assert row == ("NT-Xent in tiles, D = 128", "1,000 to 16,000 batch", "1 to 256", "2.00 (2)", "1 to 16", "1.00 (1)")


def test_findings_hold_the_figure_and_every_point(measured, tmp_path):
    found = measured.findings(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["growth.png", "growth.svg"]
    assert found.figures == ["growth.svg"]
    assert [len(table.rows) for table in found.tables] == [2, 6]
    before = (tmp_path / "growth.svg").read_bytes()
    measured.findings(tmp_path)
    assert (tmp_path / "growth.svg").read_bytes() == before
    text = before.decode()
    assert "NT-Xent in tiles" in text
    assert "mathdefault" not in text
    json.dumps(found.json())


def test_the_figure_draws_what_was_measured_and_what_was_expected(measured):
    panels = measured.figure().axes
    assert [axes.get_ylabel() for axes in panels] == ["Seconds", "Peak memory / MiB"]
    for axes, field in zip(panels, ("seconds", "peak"), strict=True):
        lines = axes.get_lines()
        assert len(lines) == 4
        for curve, seen, expected in zip(measured.curves, lines[::2], lines[1::2], strict=True):
            costs = [getattr(point, field) / (MIB if field == "peak" else 1) for point in curve.points]
            np.testing.assert_allclose(seen.get_ydata(), costs)
            assert expected.get_ydata()[-1] == pytest.approx(costs[-1])
    knn_time = panels[0].get_lines()[3].get_ydata()
    assert knn_time[-1] / knn_time[0] == pytest.approx(16)  # linear, as expected, though it was not


@pytest.mark.parametrize("part", ["views", "features", "knn", "masks"])
def test_every_part_can_be_measured(growth, part):
    point = growth.measure_here(part, 600, rounds=1)
    assert point.n == 600
    assert point.seconds > 0
    assert point.peak >= 0


ALLOCATING = """
import sys
import torch
import speed_growth as growth

def make(n):
    inputs = torch.ones(3 * n, dtype=torch.uint8)
    return lambda: inputs[:n] + 1

growth._MAKERS["masks"] = make
print(growth.measure_here("masks", int(sys.argv[1]), rounds=1).peak)
"""


def test_memory_over_the_inputs_is_seen_and_the_inputs_are_not(growth):
    # In a process of its own: in one that ran other tests, memory that they gave back may serve.
    n = 200 * MIB
    told = subprocess.run(
        [sys.executable, "-c", ALLOCATING, str(n)],
        cwd=Path(growth.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 * n < int(told.stdout) < 2 * n


def test_a_point_is_measured_in_a_process_of_its_own(growth):
    point = growth.measure("masks", 3_000_000)
    assert point.n == 3_000_000
    assert point.peak >= 3_000_000 * 4  # at least the magnitudes
    assert point.seconds > 0


def test_losses_are_asked_of_their_own_benchmark(growth, monkeypatch):
    asked = []

    def measure_loss(kind, n, *, threads):
        asked.append((kind, n, threads))
        return types.SimpleNamespace(seconds=2.0, peak=3)

    monkeypatch.setattr(importlib.import_module("speed_loss"), "measure_loss", measure_loss)
    found = growth.grow({"dense": (8, 16), "tiled": (32,)}, threads=2)
    assert asked == [("dense", 8, 2), ("dense", 16, 2), ("tiled", 32, 2)]
    assert found.curves[0].points[1] == growth.Point(n=16, seconds=2.0, peak=3)


def test_plans_name_every_part_in_ascending_steps(growth):
    for plan in (growth.THOROUGH, growth.QUICK):
        assert plan.keys() == growth.EXPECTED.keys()
        assert all(len(ns) > 1 and list(ns) == sorted(set(ns)) for ns in plan.values())


def test_without_the_kernels_word_nothing_is_claimed(growth, monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "STATUS", tmp_path / "absent")
    assert growth.grow(growth.QUICK) is None
    assert growth.find_growth(growth.QUICK, tmp_path) == growth.Findings()


def test_the_command_line(growth, measured, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda _threads: None)  # the suite's own number stays
    growth.main(["--part", "masks", "600"])
    assert json.loads(capsys.readouterr().out)["n"] == 600
    monkeypatch.setattr(growth, "grow", lambda _plan, **_options: measured)
    growth.main(["--out", str(tmp_path / "new"), "--quick"])
    assert "### Growth" in capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "growth.json").read_text())
    assert written["tiled"]["time"] == pytest.approx(2)
