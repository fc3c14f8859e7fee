"""The queue: nothing twice, failures apart, one process a run, on after a kill."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from sdclr.config import to_json
from sdclr.files import claimed
from sdclr.paper import runner
from sdclr.paper.results import collect
from sdclr.paper.runner import Data, Queue, evaluation, run_queue
from sdclr.training.interrupts import TIME_IS_UP, Interrupted
from sdclr.training.pretrain import Trainer
from sdclr.training.run import Run


@pytest.fixture
def queue(tiny, tmp_path):
    return Queue(folder=tmp_path / "runs", data=tiny.tiny_split, runtime=tiny.RUNTIME)


@pytest.fixture
def counted(monkeypatch):
    """The names of the runs that were trained and evaluated, in order."""
    found = []
    for name in ("pretrain", "evaluate"):
        real = getattr(runner, name)

        def call(*args, _name=name, _real=real, **kwargs):
            run = _real(*args, **kwargs)
            found.append((_name, run.path.name if _name == "pretrain" else args[2].branch))
            return run

        monkeypatch.setattr(runner, name, call)
    return found


def test_what_is_finished_is_not_done_again(queue, tiny, counted):
    task = tiny.tiny_task()
    assert run_queue(queue, [task]) == {task.name: "finished"}
    assert counted == [("pretrain", task.name), ("evaluate", "dense")]
    assert run_queue(queue, [task]) == {}
    assert len(counted) == 2
    wider = replace(task, branches=("dense", "sparse"))  # another table asks for more of the same run
    assert run_queue(queue, [wider]) == {task.name: "finished"}
    assert counted[3:] == [("evaluate", "sparse")]
    rows = collect(queue.folder)
    assert {(row["branch"], row["probe"]) for row in rows} == {
        (branch, probe) for branch in ("dense", "sparse") for probe in ("linear", "few_shot", "knn")
    }
    assert all(row["status"] == "finished" and row["all"] > 5 and row["seconds"] > 0 for row in rows)


def test_it_is_judged_with_the_sets_of_the_split(queue, tiny):
    task = tiny.tiny_task()
    run_queue(queue, [task])
    split, found = tiny.tiny_split(task), queue.evaluated(task, "dense")
    assert found["class_counts"] == split.counts.tolist()
    assert found["few_shot"]["images"] == len(split.few_shot) == 30
    assert found["linear"]["images"] == len(split.full) == 400
    assert found["validation"]["images"] == 297
    assert found["config"] == to_json(evaluation(task, "dense"))
    assert Run(queue.place(task)).source["images"] == len(split.long_tail)


def test_a_failure_is_kept_apart(queue, tiny):
    broken = replace(queue, data=tiny.second_is_broken)
    tasks = [tiny.tiny_task(split) for split in (2, 1)]
    assert run_queue(broken, tasks) == {tasks[0].name: "failed", tasks[1].name: "finished"}
    trace = queue.place(tasks[0]) / "failed.txt"
    assert "the disk is on fire" in trace.read_text()
    assert {row["status"] for row in collect(queue.folder) if row["split"] == 2} == {"failed"}
    assert run_queue(queue, tasks) == {tasks[0].name: "finished"}  # mended, it is tried again
    assert not trace.exists()


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_two_processes_do_not_train_one_run(queue, tiny):
    task = tiny.tiny_task()
    place = queue.place(task)
    place.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", HOLDER, place / ".lock"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert run_queue(queue, [task]) == {task.name: "busy"}
        assert not Run(place).config_file.exists()
        other.kill()  # which leaves its lock file behind, and nothing held
    with claimed(place) as free:
        assert free
        assert (place / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_killed_run_goes_on(queue, tiny, monkeypatch):
    task = tiny.tiny_task(epochs=4)
    reference = replace(queue, folder=queue.folder / "whole")
    run_queue(reference, [task])
    steps = []
    real = runner.pretrain

    def dies(source, config, *, run, runtime, weights):
        monkeypatch.setattr("sdclr.training.pretrain.Trainer._log", stop_after_three)
        return real(source, config, run=run, runtime=replace(runtime, checkpoint_minutes=0), weights=weights)

    def stop_after_three(self, log, epoch):
        del log, epoch
        steps.append(self.step)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "pretrain", dies)
        with pytest.raises(Interrupted, match="stopped after step 3"):
            run_queue(queue, [task])
        monkeypatch.undo()
    assert not queue.finished(task)
    assert not (queue.place(task) / "failed.txt").exists()
    assert run_queue(queue, [task]) == {task.name: "finished"}
    first, second = ((one.place(task) / "encoder.safetensors").read_bytes() for one in (reference, queue))
    assert first == second


def test_what_does_not_fit_into_the_time_is_left_and_goes_on(queue, tiny, monkeypatch):
    tasks = [tiny.tiny_task(split, epochs=4) for split in (1, 2)]
    reference = replace(queue, folder=queue.folder / "whole")
    run_queue(reference, tasks[:1])
    take_step = Trainer._take_step

    def ring_after_three(self, batch):
        take_step(self, batch)
        if self.step == 3:
            signal.raise_signal(TIME_IS_UP)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", ring_after_three)
        assert run_queue(queue, tasks, seconds=1e6) == {task.name: "left" for task in tasks}
    assert list((queue.place(tasks[0]) / "checkpoints").glob("step-000000003.pt"))
    assert not queue.place(tasks[1]).exists()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert run_queue(queue, tasks, seconds=1e6) == {task.name: "finished" for task in tasks}
    first, second = ((one.place(tasks[0]) / "encoder.safetensors").read_bytes() for one in (reference, queue))
    assert first == second


def test_an_evaluation_is_cut_off_by_the_time(queue, tiny, monkeypatch):
    task = tiny.tiny_task()

    def rings(*args, **kwargs):
        del args, kwargs
        signal.raise_signal(TIME_IS_UP)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", rings)
        assert run_queue(queue, [task], seconds=1e6) == {task.name: "left"}
    assert not queue.finished(task)
    assert run_queue(queue, [task]) == {task.name: "finished"}


@pytest.mark.slow
def test_jobs_run_side_by_side(queue, tiny):
    broken = replace(queue, data=tiny.second_is_broken, jobs=2)
    tasks = [tiny.tiny_task(split) for split in (1, 2, 3)]
    told = []
    ended = run_queue(broken, tasks, told.append)
    assert [ended[task.name] for task in tasks] == ["finished", "failed", "finished"]
    assert "the disk is on fire" in (queue.place(tasks[1]) / "failed.txt").read_text()
    assert queue.finished(tasks[0])
    assert told[0] == f"1 of 3: {tasks[0].name}"
    assert f"failed: {tasks[1].name}" in told
    session = json.loads((queue.place(tasks[2]) / "sessions.jsonl").read_text().splitlines()[0])
    assert session["threads"] == max(1, (os.cpu_count() or 1) // 2)


def test_a_stopped_queue_stops_its_processes(queue, tiny):
    task = tiny.tiny_task(epochs=100_000)

    def stop():
        deadline = time.monotonic() + 300
        while not (queue.place(task) / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Interrupted, match="what was trained is saved"):
        run_queue(replace(queue, jobs=2), [task])
    stopper.join()
    assert not multiprocessing.active_children()
    assert list((queue.place(task) / "checkpoints").glob("*.pt"))
    assert not (queue.place(task) / "failed.txt").exists()


def test_data_sets_are_found_below_one_folder(tmp_path):
    for name in ("cifar10", "imagenet"):
        (tmp_path / name).mkdir()
    data = Data(root=tmp_path)
    assert data.place("cifar10_lt") == data.place("cifar10") == tmp_path / "cifar10"
    assert data.place("imagenet_lt_exp") == data.place("imagenet100_lt") == tmp_path / "imagenet"
    assert data.place("cifar100_lt") == tmp_path
    (tmp_path / "imagenet100").mkdir()
    assert data.place("imagenet100_lt") == tmp_path / "imagenet100"


def test_a_jpeg_copy_is_called_one(cifar10_dir, tmp_path):
    assert "JPEG" in Data(root=cifar10_dir).copy("cifar10_lt")
    assert Data(root=tmp_path).copy("cifar10_lt") == "files as published"
    assert Data(root=tmp_path / "none").copy("cifar10_lt") == "not there"
