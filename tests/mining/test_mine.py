"""From images and an encoder to a ranking on disk."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from sdclr.cli.told import found
from sdclr.config import from_json, to_json
from sdclr.data.sources import ArraySource, SubsetSource, open_source
from sdclr.encoders import Preprocessing
from sdclr.errors import InputError
from sdclr.features import approximate
from sdclr.features.extract import extract_features
from sdclr.mining.mine import MineConfig, mine
from sdclr.mining.scores import Scores

QUICK = MineConfig(k=(5, 2), batch_size=32, amp="none")


def neighbor_distances(features, k):
    """Mean cosine distance to the k nearest other rows, by scikit-learn."""
    return NearestNeighbors(n_neighbors=k, metric="cosine").fit(features).kneighbors()[0].mean(axis=1)


def test_every_image_gets_its_distances_its_kind_and_its_forgetting(sdclr_run, collection, damaged, out):
    scores = mine(damaged(collection, (3, 40)), QUICK, encoder=sdclr_run, out=out)
    assert list(scores.columns) == ["distance_5", "distance_2", "kind_size", "forgetting_0.5"]
    good = np.delete(np.arange(120), [3, 40])
    features = extract_features(sdclr_run.encoder(), collection, preprocessing=Preprocessing(image_size=8)).values[good]
    for k in (5, 2):
        np.testing.assert_allclose(scores.columns[f"distance_{k}"][good], neighbor_distances(features, k), atol=1e-5)
    assert scores.score == "kinds"
    assert scores.order()[0] == np.nanargmax(scores.rarity)
    assert np.isfinite(scores.rarity[good]).all()
    assert scores.bad == {collection.ids[3]: "truncated", collection.ids[40]: "truncated"}
    assert scores.about["normalization"] == "own"


def test_readable_images_have_a_place_on_the_map(sdclr_run, collection, damaged, out):
    scores = mine(damaged(collection, (3, 40)), QUICK, encoder=sdclr_run, out=out)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(scores.projection).any(axis=1)), [3, 40])
    assert scores.projection.shape == (120, 2)
    assert scores.about["map"] == "t-SNE of the neighbor graph"
    without = mine(damaged(collection, (3, 40)), replace(QUICK, map=False), encoder=sdclr_run, out=out)
    assert without.projection is None
    assert without.about["map"] is None


def test_the_summary_says_how_neighbors_were_sought(sdclr_run, collection, out, monkeypatch):
    scores = mine(collection, QUICK, encoder=sdclr_run, out=out)
    assert scores.summary()["neighbors"] == {"search": "exact", "recall": 1.0}
    assert not any("approximate" in line for line in found(scores))
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 100)
    scores = mine(collection, QUICK, encoder=sdclr_run, out=out)
    assert scores.summary()["neighbors"]["search"] == "approximate"
    assert 0.5 < scores.summary()["neighbors"]["recall"] <= 1
    assert any(f"{scores.about['neighbors']['recall']:.1%} of the true ones" in line for line in found(scores))


def test_groups_describe_the_kinds_of_the_images(sdclr_run, collection, damaged, out):
    scores = mine(damaged(collection, (0, 40)), QUICK, encoder=sdclr_run, out=out)
    good = np.delete(np.arange(120), [0, 40])
    assert [group.kind for group in scores.groups] == list(range(len(scores.groups)))
    assert [group.size for group in scores.groups] == np.bincount(scores.kinds[good]).tolist()
    assert scores.kinds[[0, 40]].tolist() == [-1, -1]
    sizes = np.array([group.size for group in scores.groups])
    np.testing.assert_array_equal(scores.columns["kind_size"][good], sizes[scores.kinds[good]])
    for group in scores.groups:
        assert scores.kinds[group.medoid] == group.kind  # positions count unreadable images, too
    assert set(scores.odd.tolist()) <= set(good.tolist())


def test_what_is_written_is_what_is_returned(sdclr_run, collection, out):
    scores = mine(collection, QUICK, encoder=sdclr_run.path, out=out)
    read = Scores.read(out / "scores.parquet")
    np.testing.assert_array_equal(read.rank, scores.rank)
    np.testing.assert_array_equal(read.labels, collection.labels)
    assert (read.about, read.groups) == (scores.about, scores.groups)
    summary = json.loads((out / "summary.json").read_text())
    assert summary == scores.summary()
    assert from_json(MineConfig, summary["config"]) == QUICK
    assert (summary["encoder"], summary["source"], summary["images"]) == (str(sdclr_run.path), "few", 120)
    assert summary["origin"] is None  # a run that started at random


@pytest.mark.parametrize(
    ("changes", "ranked_by"),
    [
        ({"score": "distance", "k": (2, 5)}, "distance_2"),
        ({"score": "lof"}, "lof_5"),
        ({"score": "forgetting", "ratios": (0.3, 0.6)}, "forgetting_0.3"),
        ({"score": "loss", "references": 20}, "loss"),
    ],
)
def test_every_score_ranks_by_its_column(sdclr_run, collection, out, changes, ranked_by):
    config = from_json(MineConfig, to_json(QUICK) | changes | {k: list(v) for k, v in changes.items() if k == "k"})
    scores = mine(collection, config, encoder=sdclr_run, out=out)
    assert scores.score == changes["score"]
    np.testing.assert_array_equal(scores.rarity, scores.columns[ranked_by])
    assert np.isfinite(scores.rarity).all()
    assert scores.about["ranked_by"] == ranked_by


def test_another_score_needs_no_second_pass(sdclr_run, collection, damaged, out):
    mine(collection, QUICK, encoder=sdclr_run, out=out)
    again = damaged(collection)
    mine(again, MineConfig(score="distance", k=(7,), lof=True, batch_size=32), encoder=sdclr_run, out=out)
    assert again.asked == []


def test_scores_do_not_depend_on_the_batch_size(sdclr_run, collection, out):
    many = {"loss": True, "views": 3, "k": (5,), "amp": "none"}
    large = mine(collection, MineConfig(batch_size=64, **many), encoder=sdclr_run, out=out / "64")
    small = mine(collection, MineConfig(batch_size=7, **many), encoder=sdclr_run, out=out / "7")
    for name in ("loss", "forgetting_0.5", "distance_5"):
        np.testing.assert_allclose(small.columns[name], large.columns[name], atol=1e-4)


def test_labels_play_no_part(sdclr_run, collection, out):
    images = np.stack([collection.image(i) for i in range(120)])
    plain = mine(ArraySource(images, ids=list(collection.ids)), QUICK, encoder=sdclr_run, out=out / "plain")
    labeled = mine(collection, QUICK, encoder=sdclr_run, out=out / "labeled")
    assert plain.labels is None
    np.testing.assert_array_equal(plain.rank, labeled.rank)


def test_a_run_without_pruning(simclr_run, collection, out):
    scores = mine(collection, QUICK, encoder=simclr_run, out=out)
    assert list(scores.columns) == ["distance_5", "distance_2", "kind_size"]
    assert scores.about["normalization"] is None
    asked = MineConfig(score="forgetting", ratios=(0.5,), k=(5,), amp="none")
    assert mine(collection, asked, encoder=simclr_run, out=out).about["normalization"] == "shared"
    with pytest.raises(InputError, match=r"was not pruned in training: give --ratios 0\.5"):
        mine(collection, MineConfig(score="forgetting"), encoder=simclr_run, out=out)


def test_a_run_whose_ratio_ended_at_zero_forgets_nothing(sdclr_run, collection, out, monkeypatch):
    monkeypatch.setattr(type(sdclr_run), "pruned_fraction", 0.0)
    scores = mine(collection, QUICK, encoder=sdclr_run, out=out)
    assert list(scores.columns) == ["distance_5", "distance_2", "kind_size"]
    with pytest.raises(InputError, match="was not pruned in training: give --ratios"):
        mine(collection, MineConfig(score="forgetting"), encoder=sdclr_run, out=out)


def test_by_default_results_lie_in_the_run(simclr_run, collection, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("config.json", "encoder.json", "encoder.safetensors"):
        (copied / name).write_bytes((simclr_run.path / name).read_bytes())
    mine(collection, QUICK, encoder=copied)
    assert (copied / "mine" / "scores.parquet").is_file()


def test_an_unusual_image_among_its_likes_comes_first(sdclr_run, tmp_path, out):
    rng = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(rng.integers(0, 20, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"dark-{number:02d}.png")
    Image.fromarray(np.eye(8, dtype=np.uint8).repeat(3).reshape(8, 8, 3) * 255).save(tmp_path / "odd.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    scores = mine(str(tmp_path), MineConfig(score="distance", k=(3,)), encoder=sdclr_run, out=out)
    assert scores.ids[scores.order()[0]] == "odd.png"
    assert list(scores.bad) == ["broken.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": ()}, "--k is .*give one or more"),
        ({"k": (10, 0)}, "--k is .*each 1 or more"),
        ({"views": 0}, "--views is 0: give 1 or more"),
        ({"batch_size": 0}, "--batch-size is 0: give 1 or more"),
        ({"references": 0}, "--references is 0: give 1 or more"),
        ({"ratios": (1.0,)}, r"--ratios holds 1\.0: give shares in \[0, 1\)"),
        ({"seed": -1}, "--seed is -1: give 0 or more"),
    ],
)
def test_settings_outside_their_domain(changes, message):
    with pytest.raises(InputError, match=message):
        MineConfig(**changes)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_images_are_ranked_with_fewer_neighbors(sdclr_run, collection, out, count):
    few = SubsetSource(collection, np.arange(count))
    scores = mine(few, MineConfig(k=(10, 3), lof=True, loss=True), encoder=sdclr_run, out=out)
    neighbors = [name for name in scores.columns if name.startswith("distance_")]
    # k and k' that are both cut to the same number make one column.
    assert neighbors == [f"distance_{k}" for k in dict.fromkeys(min(k, max(1, count - 1)) for k in (10, 3))]
    assert sorted(scores.rank.tolist()) == list(range(1, count + 1))
    assert all(np.isfinite(values).all() for values in scores.columns.values())
    assert sum(group.size for group in scores.groups) == count
    assert Scores.read(out / "scores.parquet").percentile[scores.order()[0]] == 100


def test_images_that_are_all_the_same(sdclr_run, collection, out):
    same = ArraySource(np.repeat(collection.image(0)[None], 30, axis=0))
    scores = mine(same, MineConfig(k=(5,), lof=True), encoder=sdclr_run, out=out)
    np.testing.assert_allclose(scores.columns["distance_5"], 0, atol=1e-6)
    np.testing.assert_allclose(scores.columns["lof_5"], 1, atol=1e-3)
    assert sorted(scores.rank.tolist()) == list(range(1, 31))
    assert sum(group.size for group in scores.groups) == 30


def test_most_images_unreadable(sdclr_run, collection, damaged, out):
    kept = (7, 60, 119)
    bad = tuple(position for position in range(120) if position not in kept)
    scores = mine(damaged(collection, bad), QUICK, encoder=sdclr_run, out=out)
    assert len(scores.bad) == 117
    assert set(scores.order().tolist()) == set(kept)
    assert {group.medoid for group in scores.groups} <= set(kept)
    assert scores.summary()["rarest"] == [collection.ids[position] for position in scores.order()]


def test_real_images(sdclr_run, cifar10_dir, out):
    source = SubsetSource(open_source(cifar10_dir), np.arange(600))
    scores = mine(source, MineConfig(loss=True, lof=True, batch_size=64), encoder=sdclr_run, out=out)
    assert scores.bad == {}
    assert sorted(scores.rank.tolist()) == list(range(1, 601))
    assert all(np.isfinite(values).all() for values in scores.columns.values())
    assert sum(group.size for group in scores.groups) == 600


@pytest.mark.parametrize(
    ("score", "ends"),
    [
        ("kinds", "group and are ranked by distance to their neighbors."),
        ("against", "group and are ranked by distance to the nearest old images."),
        ("loss", "form one connected group."),
    ],
)
def test_the_summary_of_one_group_names_what_ranks(score, ends):
    scores = SimpleNamespace(
        score=score, groups=[], bad=(), odd=(), duplicates=(), about={}, order=lambda: np.arange(0)
    )
    with_length = type("Empty", (SimpleNamespace,), {"__len__": lambda _: 0})(**vars(scores))
    assert any(line.endswith(ends) for line in found(with_length))
