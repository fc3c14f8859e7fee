"""Whole epochs at sizes that take no time: that both sides see the same images, each once."""

import importlib
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from sdclr.data.sources import ParquetSource
from sdclr.training.run import Run

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def small():
    return importlib.import_module("speed_small")


@pytest.fixture
def size(small):
    return small.EpochSize(step=small.StepSize(width=4, batch=4, image_size=16), images=10, workers=0)


@pytest.fixture
def file(small, size, tmp_path):
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    small.write_images(tmp_path / "train.parquet", size.images, data=None, images=images)
    return tmp_path / "train.parquet"


def test_the_file_holds_the_images_given(small, tmp_path):
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    small.write_images(tmp_path / "train.parquet", 3, data=None, images=images)
    source = ParquetSource(tmp_path / "train.parquet")
    assert len(source) == 3
    for index in range(3):
        assert torch.equal(torch.from_numpy(source.image(index)).permute(2, 0, 1), images[index % 2])


def test_the_file_holds_cifar10_as_it_is_encoded(small, cifar10_dir, tmp_path):
    small.write_images(tmp_path / "train.parquet", 5, data=cifar10_dir, images=torch.empty(0))
    original = next(pq.ParquetFile(next(cifar10_dir.glob("train*"))).iter_batches(5)).column("image").to_pylist()
    assert pq.read_table(tmp_path / "train.parquet").column("image").to_pylist() == original


def test_our_epoch_is_a_finished_run(small, size, file, tmp_path):
    steps = small.our_epoch(file, size, "bf16", tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert run.config.damage.kind == "prune"
    assert [line["step"] for line in run.metrics()] == [2]
    assert steps > 0


def test_their_epoch_takes_as_many_steps(small, size, file, monkeypatch):
    seen, step = [], small.LightlyTraining.step

    def noted(training, view1, view2):
        seen.append((view1, view2))
        step(training, view1, view2)

    monkeypatch.setattr(small.LightlyTraining, "step", noted)
    small.their_epoch(file, size, "none")
    assert [view1.shape for view1, _ in seen] == [(4, 3, 16, 16)] * 2
    assert all(not torch.equal(*views) for views in seen)
    assert min(view1.min() for view1, _ in seen) < -1  # normalized, as by default


def test_what_lies_outside_the_steps_is_told(small, size, file, tmp_path, monkeypatch):
    calls = []

    def fake(name, whole, steps):
        def epoch(_file, _size, amp, *_folder):
            calls.append((name, amp))
            clock[0] += whole
            return steps

        return epoch

    clock = [0.0]
    harness = importlib.import_module("speed_harness")
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(small, "our_epoch", fake("ours", 2.0, 1.5))
    monkeypatch.setattr(small, "their_epoch", fake("theirs", 5.0, 4.0))
    found, table = small.compare_epochs(file, size, tmp_path, harness.Effort(rounds=2, seconds=9, warmup=0))
    assert calls == [("ours", "bf16"), ("ours", "none"), ("theirs", "none"), ("theirs", "bf16")] * 2
    assert found.median("sdclr pretrain, bf16") == 10 / 2
    assert found.median("lightly, float32") == 10 / 5
    assert table.rows[0] == ("sdclr pretrain, bf16", 2.0, 0.5, 10 / 1.5)
    assert table.rows[2] == ("lightly, float32", 5.0, 1.0, 10 / 4.0)


def test_both_sides_run(small, size, file, tmp_path):
    workers = replace(size, workers=1, ours=("none",), theirs=("none",))
    effort = small.Effort(rounds=1, seconds=0, warmup=0)
    found, table = small.compare_epochs(file, workers, tmp_path, effort)
    assert list(found.samples) == ["sdclr pretrain, float32", "lightly, float32"]
    assert all(0 < outside < whole for _, whole, outside, _ in table.rows)
