"""The benchmark of the loss: that what it compares is the same thing, and that it would see memory."""

import importlib
import json
import types

import pytest
import torch


@pytest.fixture
def loss():
    return importlib.import_module("speed_loss")


@pytest.fixture
def effort(loss):
    return loss.Effort(rounds=2, seconds=0, warmup=0)


def test_all_ways_leave_the_same_gradients(loss):
    size = loss.LossSize(batch=12, dim=5)
    found = []
    for kind in loss.KINDS:
        a, b = size.draw()
        value = loss.loss_of(kind)(a, b)
        value.backward()
        found.append((value.detach(), a.grad, b.grad))
    assert found[0][1].abs().max() > 1e-4
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def test_what_is_chosen_stands_first_and_what_does_not_fit_is_left_out(loss, effort):
    small = loss.compare_losses(loss.LossSize(batch=8, dim=4), effort)
    assert list(small.samples) == [
        loss.NAMES[kind] for kind in ("dense", "tiled", "lightly", "pytorch-metric-learning")
    ]
    assert all(len(taken) == 2 and min(taken) > 0 for taken in small.samples.values())
    assert "Left out" not in small.note
    large = loss.compare_losses(loss.LossSize(batch=256, dim=2), effort, limit=loss.GIB)
    assert list(large.samples) == [loss.NAMES[kind] for kind in ("tiled", "dense", "lightly")]
    assert "1 GiB or more: pytorch-metric-learning" in large.note


def test_another_loss_is_not_timed(loss, effort, monkeypatch):
    monkeypatch.setattr(loss, "NTXentLoss", lambda temperature: lambda a, b: loss.nt_xent(a, b, temperature + 0.001))
    with pytest.raises(ValueError, match="not the same work"):
        loss.compare_losses(loss.LossSize(batch=8, dim=4), effort)


@pytest.mark.slow
def test_the_matrix_of_the_dense_way_is_seen_and_tiles_take_none(loss):
    n = 2048
    matrix = 4 * (2 * n) ** 2
    tiled, dense = (loss.measure_loss(kind, n, 8) for kind in ("tiled", "dense"))
    assert dense.peak >= loss.least_bytes("dense", loss.LossSize(batch=n, dim=8)) >= 3 * matrix
    assert 0 < tiled.peak < matrix
    assert min(tiled.seconds, dense.seconds) > 0


def test_options_reach_the_measurement(loss, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(loss, "measure_here", lambda *what: asked.append(what) or loss.Cost(1.5, 20))
    loss.main(["lightly", "6", "--dim", "3", "--threads", "2"])
    assert asked == [2, ("lightly", loss.LossSize(batch=6, dim=3))]
    assert json.loads(capsys.readouterr().out) == {"seconds": 1.5, "peak": 20}


def test_every_way_that_fits_is_asked_for_in_a_process_of_its_own(loss, monkeypatch):
    commands = []

    def fake(command, **_options):
        commands.append(command[2:])
        return types.SimpleNamespace(stdout=json.dumps({"seconds": 2.0, "peak": 3 * loss.GIB}))

    monkeypatch.setattr(loss.subprocess, "run", fake)
    found = loss.measure_losses([16, 32_768], dim=4, threads=3)
    assert commands == [
        *([kind, "16", "--dim", "4", "--threads", "3"] for kind in loss.KINDS),
        ["tiled", "32768", "--dim", "4", "--threads", "3"],
    ]
    (target,) = found.targets
    assert (target.measured, target.met) == (3, False)
    (table,) = found.tables
    assert table.rows[-1] == (loss.NAMES["tiled"], "32,768", 2.0, 3 * 1024)
    assert "16 GiB or more: sdclr, the full matrix at N = 32,768" in table.note
    assert loss.Findings.from_json(json.loads(json.dumps(found.json()))).markdown() == found.markdown()


def test_no_kernel_that_tells_no_measurement(loss, monkeypatch, tmp_path):
    monkeypatch.setattr(loss, "STATUS", tmp_path / "absent")
    assert loss.measure_losses([16]) == loss.Findings()
