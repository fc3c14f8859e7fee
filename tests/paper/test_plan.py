"""What is left to do and what it costs."""

import json

import pytest

from sdclr.config import to_json
from sdclr.errors import InputError
from sdclr.files import write_json
from sdclr.paper.plan import duration, look, plan_table, throughputs
from sdclr.paper.results import evaluation_file
from sdclr.paper.runner import Queue, evaluation


def not_there(_):
    raise InputError("nowhere does not exist")


def trained(queue, task, *, steps, finished):
    """A folder as a run leaves it that was trained at 10 images a second."""
    place = queue.place(task)
    place.mkdir(parents=True)
    write_json(place / "config.json", to_json(task.config))
    (place / "metrics.jsonl").write_text(json.dumps({"step": steps, "images_per_second": 10.0}) + "\n")
    if finished:
        write_json(place / "encoder.json", {})
        groups = dict.fromkeys(("many", "medium", "few", "std", "all", "std_classes"), 50.0)
        probes = {probe: {"balance": groups} for probe in ("linear", "few_shot", "knn")}
        write_json(evaluation_file(place, "dense"), {"config": to_json(evaluation(task, "dense")), **probes})


@pytest.fixture
def queue(tiny, tmp_path):
    return Queue(folder=tmp_path, data=tiny.tiny_split, runtime=tiny.RUNTIME)


def test_states_and_what_is_left(queue, tiny):
    tasks = [tiny.tiny_task(split) for split in (1, 2, 3, 4)]
    images = len(tiny.tiny_split(tasks[0]).long_tail)
    steps = images // 32
    trained(queue, tasks[0], steps=2 * steps, finished=True)
    trained(queue, tasks[1], steps=steps, finished=False)
    trained(queue, tasks[2], steps=2 * steps, finished=False)
    (queue.place(tasks[2]) / "failed.txt").write_text("no")
    states = look(queue, tasks)
    assert [state.status for state in states] == ["finished", "in part", "failed", "to do"]
    assert [state.left for state in states] == [0, images, 0, 2 * images]
    assert [state.seconds for state in states] == pytest.approx([0, images / 10, 0, 2 * images / 10])
    table = plan_table(states)
    assert [row[1] for row in table.rows] == ["finished", "in part", "failed", "to do"]
    assert "3 of 4 left" in table.note
    assert f"about {duration(3 * images / 10)} of one process" in table.note


def test_an_evaluation_done_otherwise_is_not_the_one(queue, tiny):
    task = tiny.tiny_task()
    trained(queue, task, steps=4, finished=True)
    write_json(evaluation_file(queue.place(task), "dense"), {"config": {"k": 1}})
    assert look(queue, [task])[0].status == "in part"


def test_without_a_run_like_it_time_is_unknown(queue, tiny):
    (state,) = look(queue, [tiny.tiny_task()])
    assert state.seconds is None
    assert "unknown" in plan_table([state]).note
    assert throughputs(queue.folder) == {}


def test_missing_data_is_told_and_no_error(tiny, tmp_path):
    from dataclasses import replace

    queue = Queue(folder=tmp_path, data=not_there, runtime=tiny.RUNTIME)
    large = replace(tiny.tiny_task(2), dataset="imagenet_lt")
    states = look(queue, [tiny.tiny_task(), large])
    assert [state.status for state in states] == ["no data", "no data"]
    note = plan_table(states).note
    assert "No data for CIFAR-10-LT: nowhere does not exist." in note
    assert "No data for ImageNet-LT: the small scale has CIFAR alone" in note
    assert "Nothing is left to do" in note


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown"), (0.2, "1 s"), (90, "2 min"), (5400, "1.5 h"), (0, "0 s")]
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text
