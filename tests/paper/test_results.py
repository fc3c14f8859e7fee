"""The tidy table: from folders, to files and back."""

import json
import math

import pytest

from sdclr.downstream.config import FinetuneConfig
from sdclr.errors import InputError
from sdclr.files import write_json
from sdclr.paper.results import (
    SCHEMA,
    collect,
    describe,
    evaluation_file,
    read_results,
    training_seconds,
    write_results,
)
from sdclr.paper.tasks import Tuning
from sdclr.training.run import Run

SCORE = {
    "balance": {"many": 50.0, "medium": 40.0, "few": None, "all": 45.0, "std": 5.0},
    "per_class": [1.0],
    "std_classes": 7.0,
}


@pytest.fixture
def folder(tmp_path, tiny):
    """A task whose dense branch is evaluated, and a classifier that failed."""
    from dataclasses import replace

    task = replace(tiny.tiny_task(), branches=("dense", "sparse"))
    place = tmp_path / task.name
    describe(task, place)
    write_json(evaluation_file(place, "dense"), dict.fromkeys(("linear", "few_shot", "knn"), SCORE) | {"sdclr": "1.0"})
    tuning = Tuning(dataset="cifar10_lt", split=1, config=FinetuneConfig(method="ride"), scale="cpu")
    describe(tuning, tmp_path / tuning.name)
    (tmp_path / tuning.name / "failed.txt").write_text("no")
    return tmp_path


def test_a_row_for_each_run_branch_and_probe(folder):
    rows = collect(folder)
    assert [list(row) for row in rows] == [SCHEMA.names] * 7
    told = [(row["branch"], row["probe"], row["status"], row["all"]) for row in rows]
    assert told == [
        ("dense", "fine_tuned", "failed", None),
        *(("dense", probe, "finished", 45.0) for probe in ("linear", "few_shot", "knn")),
        *(("sparse", probe, "unfinished", None) for probe in ("linear", "few_shot", "knn")),
    ]
    first = rows[1]
    assert (first["method"], first["ratio"], first["independent_norm"]) == ("SDCLR", 0.3, True)
    assert (first["dataset"], first["subset"], first["scale"], first["split"]) == ("cifar10_lt", "long_tail", "cpu", 1)
    assert (first["std_classes"], first["few"], first["sdclr"]) == (7.0, None, "1.0")
    assert rows[0]["ratio"] is None


def test_a_finished_classifier(folder):
    place = next(folder.glob("*ride*"))
    (place / "failed.txt").unlink()
    found = {"balance": SCORE["balance"], "per_class": [10.0, None, 20.0], "seconds": 3.0, "sdclr": "1.0"}
    write_json(place / "result.json", found)
    row = collect(folder)[0]
    assert (row["status"], row["method"], row["all"], row["seconds"]) == ("finished", "RIDE from scratch", 45.0, 3.0)
    assert math.isclose(row["std_classes"], 5.0)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_what_is_written_is_read_back(folder, tmp_path, kind):
    rows = collect(folder)
    files = write_results(rows, tmp_path / "out")
    assert [file.name for file in files] == ["results.parquet", "results.csv"]
    assert read_results(tmp_path / "out" / f"results.{kind}") == rows
    assert read_results(tmp_path / "out") == rows


def test_another_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"results\.parquet is missing"):
        read_results(tmp_path)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match=r"a\.csv cannot be read"):
        read_results(tmp_path / "a.csv")


def test_seconds_follow_from_the_logged_speed(tmp_path, tiny):
    from sdclr.config import to_json

    assert training_seconds(Run(tmp_path)) is None
    write_json(tmp_path / "config.json", to_json(tiny.TINY))
    lines = [{"step": 3, "images_per_second": 96.0}, {"step": 5, "images_per_second": 32.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_seconds(Run(tmp_path)) == pytest.approx(3 * 32 / 96 + 2 * 32 / 32)
