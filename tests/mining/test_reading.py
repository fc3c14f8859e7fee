"""The pass over the images: its values, and that a stopped one goes on."""

import dataclasses
import errno
import os

import numpy as np
import pytest
import torch

from sdclr.encoders import Preprocessing
from sdclr.errors import InputError, StorageError
from sdclr.features.extract import evaluation_view, extract_features
from sdclr.mining import reading as module
from sdclr.mining.forgetting import forgetting, load_networks
from sdclr.mining.reading import Plan, read_collection
from sdclr.views.parameters import draw_views
from sdclr.views.render_cv import render_cv

BAD = (0, 17, 70, 119)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 64)


@pytest.fixture(scope="module")
def states(sdclr_run):
    return load_networks(sdclr_run, [0.5])


@pytest.fixture(scope="module")
def plan(sdclr_run):
    return Plan(
        preprocessing=Preprocessing(image_size=8),
        views=sdclr_run.config.views,
        forgetting_views=1,
        pairs=1,
        projection=False,
        batch_size=32,
        amp="none",
        seed=3,
    )


def read(source, states, plan, folder, **how):
    encoder = states[0].dense.encoder
    return read_collection(source, encoder, states, plan, folder, device=torch.device("cpu"), **how)


def assert_equal(found, expected):
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.projections, expected.projections)
    assert list(found.columns) == list(expected.columns)
    for name, values in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)
    assert found.bad == expected.bad
    assert found.usable.tolist() == expected.usable.tolist()


def view(collection, plan, position, number):
    """View `number` of an image, drawn by itself; 0 is the evaluation view."""
    image = collection.image(position)
    if number == 0:
        drawn = evaluation_view(image, Preprocessing(image_size=8))
    else:
        height, width = image.shape[:2]
        which = {"epoch": 0, "view": number - 1, "indices": np.array([position]), "height": height, "width": width}
        drawn = render_cv(image, draw_views(plan.views, seed=3, **which), 8)
    return torch.from_numpy(drawn.copy()).permute(2, 0, 1)[None]


def test_values_are_those_of_the_networks_on_single_images(collection, damaged, sdclr_run, plan, tmp_path):
    states = load_networks(sdclr_run, [0.5, 0.3], checkpoints=2)
    plan = dataclasses.replace(plan, forgetting_views=2, projection=True)
    found = read(damaged(collection, BAD), states, plan, tmp_path)
    expected = extract_features(states[0].dense.encoder, collection, preprocessing=Preprocessing(image_size=8)).values
    np.testing.assert_allclose(found.features[found.usable], expected[found.usable], rtol=1e-4, atol=1e-4)
    for position in (1, 60, 118):
        with torch.no_grad():
            for ratio in (0.5, 0.3):
                measured = [
                    [
                        float(forgetting(state.dense.encoder(x), state.pruned[ratio].encoder(x))),
                        float(forgetting(state.dense(x), state.pruned[ratio](x))),
                    ]
                    for state in states
                    for x in (view(collection, plan, position, 0), view(collection, plan, position, 1))
                ]
                at_encoder, at_head = np.mean(measured, axis=0)
                assert found.columns[f"forgetting_{ratio}"][position] == pytest.approx(at_encoder, abs=1e-5)
                assert found.columns[f"forgetting_projection_{ratio}"][position] == pytest.approx(at_head, abs=1e-5)
            first = states[0].dense(view(collection, plan, position, 1))
            second = states[0].second(view(collection, plan, position, 2))
        np.testing.assert_allclose(found.projections[position, 0], torch.cat([first, second]), rtol=1e-4)


def test_bad_images_are_flagged_and_leave_no_values(collection, damaged, states, plan, tmp_path):
    found = read(damaged(collection, BAD), states, plan, tmp_path)
    assert found.bad == {collection.ids[position]: "truncated" for position in BAD}
    assert set(range(120)) - set(found.usable.tolist()) == set(BAD)
    assert np.isnan(found.features[list(BAD)]).all()
    assert np.isfinite(found.features[found.usable]).all()
    for values in found.columns.values():
        assert np.flatnonzero(np.isnan(values)).tolist() == list(BAD)


@pytest.mark.parametrize("stop", [5, 64, 100])
def test_a_stopped_pass_goes_on_and_ends_the_same(  # noqa: PLR0917  # fixtures
    collection, damaged, states, plan, tmp_path, told, stop
):
    whole = read(damaged(collection, BAD), states, plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt) as stopped:
        read(damaged(collection, BAD, stops_at=stop), states, plan, tmp_path / "stopped")
    assert stopped.value.__notes__ == [f"the features of {stop // 64 * 64} of 120 images are stored"]
    again = damaged(collection, BAD)
    told.steps.clear()
    resumed = read(again, states, plan, tmp_path / "stopped")
    assert again.asked == list(range(stop // 64 * 64, 120))
    assert told.counts()[0] == (stop // 64 * 64 + 32, 120)
    assert told.counts()[-1] == (120, 120)
    assert_equal(resumed, whole)


def test_a_finished_reading_is_not_made_again(collection, damaged, states, plan, tmp_path):
    first = read(damaged(collection, BAD), states, plan, tmp_path)
    again = damaged(collection)
    assert_equal(read(again, states, plan, tmp_path), first)
    assert again.asked == []


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "again"),
    [
        ("features.npy", lambda file: flip(file, -1), range(64, 120)),
        ("features.npy", lambda file: flip(file, 128), range(64)),
        ("features.npy", lambda file: flip(file, 40), range(120)),
        ("features.npy", lambda file: file.write_bytes(file.read_bytes()[:-4]), range(120)),
        ("projections.npy", lambda file: flip(file, 129), range(64)),
        ("chunk-000000.npz", lambda file: flip(file, 80), range(64)),
        ("chunk-000001.npz", lambda file: file.write_bytes(b""), range(64, 120)),
        ("reading.json", lambda file: file.write_text("{"), range(120)),
    ],
)
def test_what_is_damaged_is_read_again_and_told_of(  # noqa: PLR0917  # fixtures
    collection, damaged, states, plan, tmp_path, told, name, damage, again
):
    first = read(damaged(collection, BAD), states, plan, tmp_path)
    values = first.features.copy(), first.projections.copy()
    damage(tmp_path / name)
    told.told.clear()
    source = damaged(collection, BAD)
    found = read(source, states, plan, tmp_path)
    assert source.asked == list(again)
    assert_equal(found, first._replace(features=values[0], projections=values[1]))
    (line,) = told.told
    assert f"{tmp_path}/" in line
    assert line.endswith("its images are read again")
    assert read(quiet := damaged(collection, BAD), states, plan, tmp_path)
    assert quiet.asked == []


@pytest.mark.parametrize("what", ["seed", "source", "networks", "guard", "features", "projections"])
def test_what_was_read_otherwise_is_replaced(  # noqa: PLR0917  # fixtures
    collection, damaged, states, plan, tmp_path, what
):
    read(damaged(collection, BAD), states, plan, tmp_path)
    source, wanted, networks = damaged(collection), plan, states
    if what == "seed":
        wanted = dataclasses.replace(plan, seed=4)
    elif what == "source":
        source.ids = [f"other/{i}" for i in range(120)]
    elif what == "networks":
        networks = [states[0]._replace(pruned={0.5: states[0].dense})]
    elif what == "guard":
        (tmp_path / "reading.json").write_text("{")
    else:
        (tmp_path / f"{what}.npy").unlink()
    found = read(source, networks, wanted, tmp_path)
    assert source.asked == list(range(120))
    assert found.bad == {}
    assert np.isfinite(found.features).all()


def test_workers_change_nothing(collection, damaged, states, plan, tmp_path):
    alone = read(damaged(collection, BAD), states, plan, tmp_path / "0")
    assert_equal(read(damaged(collection, BAD), states, plan, tmp_path / "2", workers=2), alone)


def test_a_chunk_is_whole_batches(plan):
    assert plan.chunk == 64
    assert dataclasses.replace(plan, batch_size=20).chunk == 60
    assert dataclasses.replace(plan, batch_size=500).chunk == 500


def test_features_alone_need_no_states(collection, sdclr_run, plan, tmp_path):
    alone = dataclasses.replace(plan, forgetting_views=1, pairs=0)
    found = read_collection(collection, sdclr_run.encoder(), [], alone, tmp_path, device=torch.device("cpu"))
    assert found.columns == {}
    assert found.projections is None
    expected = extract_features(
        sdclr_run.encoder(), collection, preprocessing=Preprocessing(image_size=8), batch_size=32
    ).values
    np.testing.assert_array_equal(found.features, expected)


def test_nothing_but_bad_images_is_an_error(collection, damaged, states, plan, tmp_path):
    with pytest.raises(InputError, match=r"none of 120 images can be decoded; the first: .*: truncated"):
        read(damaged(collection, tuple(range(120))), states, plan, tmp_path)


@pytest.mark.parametrize(
    "cut", [("features.npy", 0), ("features.npy", 100), ("features.npy", 128), ("projections.npy", 0)]
)
def test_a_table_that_a_full_disk_cut_short_is_made_again(collection, states, plan, tmp_path, cut):
    """Earlier versions died by a signal there, and left tables that later calls could not open."""
    expected = read(collection, states, plan, tmp_path / "whole")
    read(collection, states, plan, tmp_path / "cut")
    with (tmp_path / "cut" / cut[0]).open("r+b") as file:
        file.truncate(cut[1])
    encoder = states[0].dense.encoder
    unread = module.count_unread(collection, encoder, states, plan, tmp_path / "cut", device=torch.device("cpu"))
    assert unread == len(collection)
    assert_equal(read(collection, states, plan, tmp_path / "cut"), expected)


def test_a_reading_without_space_leaves_none(collection, states, plan, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", none)
        with pytest.raises(StorageError, match=r"features.npy cannot be written: the disk is full, it needs .*kB"):
            read(collection, states, plan, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["images.parquet"]
    read(collection, states, plan, tmp_path)
