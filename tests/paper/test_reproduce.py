"""`sdclr reproduce`, from real images to a table."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tyro
from rich.console import Console

from sdclr.cli.actions import reproduce
from sdclr.cli.commands.reproduce import Reproduce
from sdclr.data.sources import SubsetSource
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.paper import experiments, runner
from sdclr.paper.results import read_results


@pytest.fixture
def called(capsys):
    """Run the command; what it printed, on both streams."""

    def call(*arguments):
        command = tyro.cli(Reproduce, args=[str(argument) for argument in arguments])
        reproduce.run(command, Console(highlight=False, soft_wrap=True))
        return "".join(capsys.readouterr())

    return call


@pytest.fixture
def small(monkeypatch):
    """A few of the real images, seen by a network that takes no time."""

    def few(source, number):
        return SubsetSource(source, np.arange(0, len(source), max(1, len(source) // number))[:number])

    def opened(*args, real=runner._opened):
        split = real(*args)
        parts = {"long_tail": 300, "balanced": 300, "full": 400, "validation": 200, "test": 300, "few_shot": 100}
        return replace(split, **{name: few(getattr(split, name), number) for name, number in parts.items()})

    real = experiments._small
    monkeypatch.setattr(runner, "_opened", opened)
    monkeypatch.setattr(
        experiments, "_small", lambda config: replace(real(config), encoder=EncoderConfig(width=4), batch_size=64)
    )


@pytest.mark.usefixtures("small")
def test_a_table_from_real_images(cifar10_dir, tmp_path, called):
    command = ["table4", "--data", cifar10_dir, "--folder", tmp_path, "--epochs", "1", "--splits", "2"]
    told = called(*command, "--amp", "none", "--device", "cpu")
    assert "**Table 4: SimCLR and SDCLR, linear**" in told
    assert "CIFAR-10-LT, SDCLR: ours, 2 splits" in told
    assert "82.00 ± 0.68" in told
    assert "SMALL" in told
    assert "shows a direction only" in told
    assert "JPEG copy" in told
    assert "No data for CIFAR-100-LT: cifar10-train: has 10 classes" in told
    assert (tmp_path / "results" / "table4-cpu.md").read_text() in told
    rows = [row for row in read_results(tmp_path / "results") if row["probe"] == "linear"]
    assert [row["method"] for row in rows] == ["SDCLR", "SimCLR"] * 2
    expected = np.mean([row["all"] for row in rows if row["method"] == "SimCLR"])
    assert f"{expected:.2f} ± " in told
    again = called(*command, "--dry-run")
    assert "Nothing is left to do" in again
    assert "ours" not in again


def test_a_dry_run_lists_and_does_nothing(cifar10_dir, tmp_path, called):
    told = called("table4", "--data", cifar10_dir, "--folder", tmp_path / "runs", "--dry-run")
    assert "6 of 14 left: 2.68 million images" in told  # 2 methods, 3 splits, 40 epochs of 11,165
    assert told.count("11,165") == 6
    assert "unknown" in told
    assert not (tmp_path / "runs").exists()


def test_no_data_at_all_is_an_error(tmp_path, called):
    with pytest.raises(InputError, match="no images for any of its runs"):
        called("table3", "--data", tmp_path, "--folder", tmp_path / "runs")
    with pytest.raises(InputError, match="--jobs is 1 or more"):
        Reproduce(what="table4", data=tmp_path, jobs=0)


@pytest.mark.usefixtures("small")
def test_failures_are_told_at_the_end(cifar10_dir, tmp_path, called, monkeypatch, capsys):
    real = runner.pretrain

    def fails(source, config, **how):
        if config.damage.kind == "prune":
            raise RuntimeError("the disk is on fire")
        return real(source, config, **how)

    monkeypatch.setattr(runner, "pretrain", fails)
    with pytest.raises(SystemExit) as stop:
        called("figure2", "--data", cifar10_dir, "--folder", tmp_path, "--epochs", "1", "--amp", "none")
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "RuntimeError: the disk is on fire" in told.err
    assert "CIFAR-10-LT, SimCLR: ours, 1 split" in told.out


@pytest.mark.usefixtures("small")
def test_a_figure_is_drawn_of_what_is_finished(cifar10_dir, tmp_path, called, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        reproduce, "draw", partial(lambda store, *args, **_: store.append(args) or [tmp_path / "f.svg"], drawn)
    )
    told = called("figure2", "--data", cifar10_dir, "--folder", tmp_path, "--epochs", "1", "--amp", "none")
    ((name, tasks, rows, out),) = drawn
    assert (name, out) == ("figure2", tmp_path / "results")
    assert [done.task.method for done in tasks] == ["SimCLR", "SDCLR"]
    assert all(done.run.finished and list(done.run.snapshots.iterdir()) for done in tasks)
    assert {row["status"] for row in rows} == {"finished"}
    assert "figure: " in told
