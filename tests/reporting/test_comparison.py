"""Runs beside each other: their names, how far they got, in what they differ, and what was diagnosed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdclr.config import to_json
from sdclr.encoders import EncoderConfig
from sdclr.errors import InputError
from sdclr.files import write_json
from sdclr.reporting.comparison import diagnosis, differing_settings, name_runs, overview, start_weights
from sdclr.reporting.tables import UNKNOWN, Table
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.run import Run

PRUNED = PretrainConfig(
    encoder=EncoderConfig(width=4),
    damage=DamageConfig(ratio=0.5),
    optim=OptimConfig(warmup_epochs=1),
    batch_size=10,
    epochs=4,
)
PLAIN = replace(PRUNED, damage=DamageConfig(kind="none", ratio=0.9))


def fake_run(folder: Path, config: PretrainConfig = PRUNED, *, epochs: int = 4, name: str = "pets") -> Run:
    """A run's folder as training leaves it after so many epochs: 99 usable images, 9 steps an epoch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    (folder / "source.json").write_text(json.dumps({"name": name, "images": 104, "bad_images": 5}))
    rows = [{"step": 9 * (n + 1), "epoch": n, "loss": 5.0 - n, "images_per_second": 100.0 * n} for n in range(epochs)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder)


def columns(table: Table | None) -> dict[str, tuple[str, ...]]:
    assert table is not None
    return dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))


def test_a_run_is_called_by_its_folder_and_as_many_above_as_tell_runs_apart(tmp_path: Path) -> None:
    runs = [Run(tmp_path / path) for path in ("a/x", "b/x", "b/y")]
    assert name_runs(runs[1:]) == {"x": runs[1], "y": runs[2]}
    assert name_runs(runs) == {"a/x": runs[0], "b/x": runs[1], "b/y": runs[2]}


def test_a_run_in_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(name_runs([Run(Path())])) == [tmp_path.name]


def test_no_run_and_a_run_given_twice_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no runs"):
        name_runs([])
    with pytest.raises(InputError, match="x is given twice"):
        name_runs([Run(Path("x")), Run(tmp_path / "x")])


def test_the_overview_tells_what_each_run_is_and_how_far_it_got(tmp_path: Path) -> None:
    whole, part = fake_run(tmp_path / "a"), fake_run(tmp_path / "b", PLAIN, epochs=3, name="cars")
    (tmp_path / "a" / "sessions.jsonl").write_text('{"precision": "float32"}\n{"precision": "bfloat16"}\n')
    found = columns(overview({"first": [whole], "second": [part]}))
    assert found == {
        "Run": ("first", "second"),
        "Method": ("SDCLR, 50% pruned", "SimCLR"),
        "Collection": ("pets", "cars"),
        "Images": ("99", "99"),
        "Epochs": ("4", "3 of 4"),
        "Images/s": ("200", "100"),  # the median
        "Precision": ("float32, bfloat16", UNKNOWN),
    }


def test_one_run_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    assert overview({"a": [fake_run(tmp_path / "a")]}) is None


def test_the_runs_of_a_method_are_counted_and_what_differs_is_listed(tmp_path: Path) -> None:
    splits = [fake_run(tmp_path / f"{n}", name=f"pets-{n}") for n in range(7)]
    found = columns(overview({"a": splits, "b": [fake_run(tmp_path / "b")]}))
    assert found["Runs"] == ("7", "1")
    assert found["Collection"] == ("pets-0, pets-1, pets-2, pets-3, 3 more", "pets")
    assert found["Images"] == ("99", "99")


def test_a_run_that_has_only_begun_is_told_as_such(tmp_path: Path) -> None:
    begun = fake_run(tmp_path / "a")
    for file in (begun.source_file, begun.metrics_file):
        file.unlink()
    found = columns(overview({"a": [begun], "b": [fake_run(tmp_path / "b")]}))
    assert [found[name][0] for name in ("Collection", "Images", "Epochs", "Images/s")] == [
        UNKNOWN,
        UNKNOWN,
        "0 of 4",
        UNKNOWN,
    ]


def test_settings_that_differ_stand_side_by_side_in_the_order_of_the_configuration(tmp_path: Path) -> None:
    warm = replace(PRUNED, temperature=0.5, damage=DamageConfig(ratio=0.3, refresh_steps=7), seed=3)
    runs = {"a": [fake_run(tmp_path / "a")], "b": [fake_run(tmp_path / "b", warm)]}
    table = differing_settings(runs)
    assert table is not None
    assert table.columns == ("Setting", "a", "b")
    assert table.rows == (
        ("damage.ratio", "0.5", "0.3"),
        ("damage.refresh_steps", "null", "7"),
        ("temperature", "0.2", "0.5"),
        ("seed", "0", "3"),
    )


def test_without_damage_its_ratio_means_nothing(tmp_path: Path) -> None:
    table = differing_settings({"a": [fake_run(tmp_path / "a", PLAIN)], "b": [fake_run(tmp_path / "b")]})
    assert table is not None
    assert table.rows == (("damage.kind", "none", "prune"), ("damage.ratio", UNKNOWN, "0.5"))


def test_equal_settings_make_no_table_and_seeds_of_splits_do_not_differ(tmp_path: Path) -> None:
    def seeded(name: str) -> list[Run]:
        return [fake_run(tmp_path / f"{name}{seed}", replace(PRUNED, seed=seed)) for seed in (1, 2)]

    assert differing_settings({"a": seeded("a"), "b": seeded("b")}) is None
    assert differing_settings({"a": seeded("c")}) is None
    assert differing_settings({}) is None


def diagnosed(folder: Path, values: object) -> Run:
    run = fake_run(folder)
    run.results.mkdir()
    (run.results / "diagnosis.json").write_text(json.dumps(values))
    return run


def test_diagnoses_stand_side_by_side(tmp_path: Path) -> None:
    first = diagnosed(
        tmp_path / "a",
        {
            "summary": ["Long-tailed.", "Label more."],
            "indices": {"distance_gini": 0.04321, "near_duplicates": 0.0},
            "context": {"effective_rank": 12.345, "intrinsic": 1234.56},
            "clusters": [{"images": 7}],
            "description": {"read": 99},
        },
    )
    second = diagnosed(
        tmp_path / "b",
        {"summary": ["Even."], "indices": {"distance_gini": 0.5, "extra": None}, "context": {"effective_rank": 7}},
    )
    found = diagnosis({"a": [fake_run(tmp_path / "none"), first], "b": [second], "c": [fake_run(tmp_path / "c")]})
    assert found is not None
    assert found.summaries == {"a": ["Long-tailed.", "Label more."], "b": ["Even."]}
    assert found.indices is not None
    assert found.indices.columns == ("Index", "a", "b")
    assert found.indices.rows == (
        ("Distance gini", "0.0432", "0.5"),
        ("Near duplicates", "0", UNKNOWN),
        ("Extra", UNKNOWN, UNKNOWN),
    )
    assert found.context is not None
    assert found.context.rows == (("Effective rank", "12.3", "7"), ("Intrinsic", "1,235", UNKNOWN))


def test_without_diagnosis_there_is_none(tmp_path: Path) -> None:
    assert diagnosis({"a": [fake_run(tmp_path / "a")]}) is None
    empty = diagnosis({"b": [diagnosed(tmp_path / "b", {"summary": [], "indices": {}, "context": {}})]})
    assert empty is not None
    assert empty.indices is None
    assert empty.context is None


@pytest.mark.parametrize("wrong", [[1, 2], {}, {"summary": "Text.", "indices": {}, "context": {}}])
def test_a_diagnosis_that_cannot_be_read_is_named(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"results/diagnosis.json cannot be read .*(JSON object|it has no 'summary'|'summary' is)",
    ):
        diagnosis({"a": [diagnosed(tmp_path / "a", wrong)]})


def test_the_weights_that_a_run_started_from_are_named(tmp_path: Path) -> None:
    run = diagnosed(tmp_path / "a", {"summary": [], "indices": {}, "context": {}})
    assert start_weights({"a": [run]}) == []
    start = {"file": "x", "sha256": "0", "spec": "timm:resnet18", "license": "apache-2.0", "labels": True}
    write_json(run.start_file, start | {"teacher": "trained with labels"})
    assert start_weights({"a": [run, run]}) == [("a", "timm:resnet18 (license apache-2.0, trained with labels)")]
