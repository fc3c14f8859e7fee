"""The ranking, and its files."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdclr.data.sources import ArraySource
from sdclr.errors import InputError
from sdclr.mining.ranking import rank_images
from sdclr.mining.scores import Scores
from sdclr.reporting.gallery_entries import KindGroup

GROUPS = (
    KindGroup(kind=0, size=2, separation=0.75, medoid=1, rare=False),
    KindGroup(kind=1, size=1, separation=1.0, medoid=3, rare=True),
)


def example(ids=("a", "b", "c", "d"), **changes):
    arguments = {
        "columns": {"distance_10": [0.1, 0.3, 9.0, 0.2], "forgetting_0.5": [1, 2, 3, 4]},
        "rarity": [0.1, 0.3, 9.0, 0.2],
        "kinds": [0, 0, 0, 1],
        "score": "distance",
        "groups": GROUPS,
        "odd": [3],
        "bad": {ids[2]: "truncated"},
        "labels": np.array([0, 1, 1, -1]),
        "classes": ("cat", "dog"),
        "about": {"run": "a"},
    }
    return rank_images(ids, **(arguments | changes))


def assert_equal(found, expected):
    for name in ("ids", "bad", "classes", "score", "about", "groups"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("rarity", "rank", "percentile", "kinds", "odd", "labels", "projection"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(getattr(found, name), "dtype", None) == getattr(getattr(expected, name), "dtype", None)
    assert list(found.columns) == list(expected.columns)
    for name, values in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)


def test_a_map_is_kept_with_nan_where_an_image_is_bad(tmp_path):
    places = np.array([[0.5, -1], [2, 3], [np.nan, np.nan], [4, 5]], dtype=np.float32)
    scores = example(projection=places)
    path = scores.write(tmp_path / "scores.parquet")
    assert_equal(Scores.read(path), scores)
    table = pq.read_table(path)
    assert table["map_x"].to_pylist() == [0.5, 2, None, 4]
    assert table["map_y"].to_pylist() == [-1, 3, None, 5]
    assert Scores.read(example().write(tmp_path / "without.parquet")).projection is None


def test_the_largest_rarity_comes_first_and_bad_images_nowhere():
    scores = example()
    assert scores.rank.tolist() == [3, 1, 0, 2]
    assert scores.percentile[[1, 3, 0]].tolist() == [100, 50, 0]
    assert scores.order().tolist() == [1, 3, 0]
    assert scores.kinds.tolist() == [0, 0, -1, 1]
    assert np.isnan([scores.rarity[2], scores.percentile[2], scores.columns["forgetting_0.5"][2]]).all()


@given(arrays(np.float32, st.integers(1, 30), elements=st.floats(-100, 100, width=32)))
def test_ranks_are_a_permutation_that_never_puts_the_smaller_first(rarity):
    scores = rank_images([str(i) for i in range(len(rarity))], {}, rarity, np.zeros(len(rarity)), score="x")
    assert sorted(scores.rank.tolist()) == list(range(1, len(rarity) + 1))
    assert (np.diff(rarity[scores.order()]) <= 0).all()
    assert scores.percentile[scores.order()[0]] == 100


def test_ties_are_broken_as_asked_then_by_position():
    scores = rank_images("abcd", {}, [1, 1, 1, 2], np.zeros(4), score="x", ties=[0, 5, 0, -1])
    assert scores.order().tolist() == [3, 1, 0, 2]


def test_a_rarity_that_is_no_number_is_refused():
    with pytest.raises(InputError, match=r"b: its distance is inf"):
        example(rarity=[0.1, np.inf, np.nan, 0.2])


def test_a_file_gives_back_what_was_written(tmp_path):
    for number, scores in enumerate([example(), example(labels=None, classes=(), bad={})]):
        assert_equal(Scores.read(scores.write(tmp_path / "new" / f"{number}.parquet")), scores)


def test_names_that_are_no_utf8_survive(tmp_path):
    scores = example(ids=("a", "caf\udce9.png", "naïve \udcff", "日本"))
    assert_equal(Scores.read(scores.write(tmp_path / "s.parquet")), scores)
    assert b"caf\xe9.png" in scores.to_csv(tmp_path / "s.csv").read_bytes()


def test_the_file_is_plain_parquet(tmp_path):
    table = pq.read_table(example().write(tmp_path / "s.parquet"))
    assert table.column_names == [
        *("id", "score", "rank", "percentile", "kind", "odd", "bad", "label", "duplicate_of", "new"),
        *("distance_10", "forgetting_0.5"),
    ]
    assert table["bad"].to_pylist() == [None, None, "truncated", None]
    assert table["rank"].to_pylist() == [3, 1, None, 2]
    assert table["kind"].to_pylist() == [0, 0, None, 1]
    assert table["odd"].to_pylist() == [None, None, None, 1]
    assert table["label"].to_pylist() == [0, 1, 1, None]
    assert json.loads(table.schema.metadata[b"sdclr"])["about"] == {"run": "a"}


def test_near_duplicates_name_the_image_to_keep(tmp_path):
    scores = replace(example(ids=("a", "caf\udce9.png", "c", "d")), duplicates=((1, 0, 3),))
    table = pq.read_table(scores.write(tmp_path / "s.parquet"))
    assert table["duplicate_of"].to_pylist() == ["caf?.png", None, None, "caf?.png"]
    assert Scores.read(tmp_path / "s.parquet").duplicates == ((1, 0, 3),)
    with scores.to_csv(tmp_path / "s.csv").open(newline="", errors="surrogateescape") as file:
        kept = {row["id"]: row["duplicate_of"] for row in csv.DictReader(file)}
    assert kept == {"a": scores.ids[1], scores.ids[1]: "", "c": "", "d": scores.ids[1]}
    summary = scores.summary()
    assert (summary["duplicate_groups"], summary["duplicates_to_drop"]) == (1, 2)


def test_other_files_are_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("other.parquet", "text.parquet", "absent.parquet"):
        with pytest.raises(InputError, match=f"{name} (cannot be read|is missing)"):
            Scores.read(tmp_path / name)


def test_odd_images_keep_their_order(tmp_path):
    scores = example(odd=[3, 0])
    read = Scores.read(scores.write(tmp_path / "s.parquet"))
    assert read.odd.tolist() == scores.odd.tolist() == [3, 0]
    assert pq.read_table(tmp_path / "s.parquet")["odd"].to_pylist() == [2, None, None, 1]


def test_scores_of_an_older_format_are_refused(tmp_path):
    table = pq.read_table(example().write(tmp_path / "s.parquet"))
    described = json.loads(table.schema.metadata[b"sdclr"]) | {"format": "sdclr-scores-1"}
    pq.write_table(table.replace_schema_metadata({"sdclr": json.dumps(described)}), tmp_path / "old.parquet")
    with pytest.raises(InputError, match=r"old\.parquet has the format 'sdclr-scores-1', not .*: mine .* again"):
        Scores.read(tmp_path / "old.parquet")


def test_csv_lists_the_rarest_first_and_bad_images_last(tmp_path):
    with example().to_csv(tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["b", "d", "a", "c"]
    assert [row["label"] for row in rows] == ["dog", "", "cat", "dog"]
    assert [row["bad"] for row in rows] == ["", "", "", "truncated"]
    assert float(rows[0]["distance_10"]) == pytest.approx(0.3)
    assert [row["kind"] for row in rows] == ["0", "1", "0", ""]
    assert [row["odd"] for row in rows] == ["", "1", "", ""]
    assert rows[3]["rank"] == rows[3]["distance_10"] == ""


def test_csv_quotes_what_needs_it(tmp_path):
    ids = ('say "hi", you', "two\nlines", "carriage\rreturn", " blank")
    with example(ids=ids).to_csv(tmp_path / "s.csv").open(newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == set(ids)


def test_fiftyone_gets_absolute_files_and_names_without_dots(tmp_path):
    source = ArraySource(np.zeros((4, 2, 2), dtype=np.uint8), ids=["a", "b", "c", "d"], name="plain")
    with pytest.raises(InputError, match="plain: its images are not individual files"):
        example().to_fiftyone(tmp_path / "labels.csv", source)
    source.file = ["a.png", "sub/b.png", "c.png", tmp_path / "d.png"].__getitem__
    path = example().to_fiftyone(tmp_path / "labels.csv", source)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["filepath"].startswith("/")
    assert rows[0]["filepath"].endswith("/sub/b.png")
    assert rows[1]["filepath"] == str(tmp_path / "d.png")
    assert {"sdclr_id", "sdclr_rarity", "sdclr_rank", "sdclr_forgetting_0_5"} < set(rows[0])
    assert all(name == "filepath" or name.removeprefix("sdclr_").isidentifier() for name in rows[0])
    assert (rows[0]["sdclr_id"], rows[0]["sdclr_rank"]) == ("b", "1")
    with pytest.raises(InputError, match="plain holds other images"):
        example(ids=("a", "b", "d", "c")).to_fiftyone(path, source)


def test_fiftyone_gets_duplicates_and_no_name_it_cannot_read(tmp_path):
    source = ArraySource(np.zeros((4, 2, 2), dtype=np.uint8), ids=["a", "b", "c", "d"], name="plain")
    source.file = ["a.png", "two\nlines.png", 'quo"te, d.png', "d.png"].__getitem__
    scores = replace(example(columns={"my score$": [0, 0, 0, 0]}), duplicates=((1, 3),))
    # As FiftyOne opens it, which makes a line feed of each line end.
    with scores.to_fiftyone(tmp_path / "f.csv", source).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["sdclr_duplicate_of"] for row in rows] == ["", "b", "", ""]
    assert [row["filepath"].rpartition("/")[2] for row in rows] == ["two\nlines.png", "d.png", "a.png", 'quo"te, d.png']
    assert "sdclr_my_score_" in rows[0]
    for name in ("caf\udce9.png", "a\rb.png"):
        source.file = ["a.png", name, "c.png", "d.png"].__getitem__
        with pytest.raises(InputError, match="is a name that FiftyOne cannot import: rename"):
            scores.to_fiftyone(tmp_path / "f.csv", source)


def test_summary():
    summary = json.loads(json.dumps(example().summary(), allow_nan=False))
    assert (summary["images"], summary["bad"], summary["score"], summary["run"]) == (4, 1, "distance", "a")
    assert summary["quantiles"]["distance_10"]["50"] == pytest.approx(0.2)
    assert summary["quantiles"]["rarity"]["100"] == pytest.approx(0.3)
    assert [(kind["size"], kind["medoid"]) for kind in summary["kinds"]] == [(2, "b"), (1, "d")]
    assert summary["odd"] == ["d"]
    assert summary["rarest"] == ["b", "d", "a"]
    assert summary["bad_images"] == {"c": "truncated"}


def test_a_ranking_is_shown_in_a_few_words():
    assert repr(example()) == "Scores(4 images ranked by distance, 2 kinds)"
