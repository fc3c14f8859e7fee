"""A collection that grows: only new and changed images are read, and new images are compared with old ones."""

import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from sdclr.data.changes import image_versions
from sdclr.data.folder import FolderSource
from sdclr.data.sources import ArraySource, SubsetSource
from sdclr.encoders import EncoderConfig, create_encoder, wrap_encoder
from sdclr.errors import InputError
from sdclr.evaluation.embed import embed
from sdclr.features.embeddings import read_embeddings
from sdclr.mining import growing, reading
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import left_to_read, mine, mine_features
from sdclr.mining.page import write_page
from sdclr.mining.scores import Scores
from sdclr.training.resolve import resolve_encoder

CONFIG = MineConfig(batch_size=4, amp="none", k=(3,), map=False, duplicates=False)


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (24, 24)))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return wrap_encoder(create_encoder(EncoderConfig(width=4), 8).backbone, image_size=8)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # old images are read into mined/ there
    monkeypatch.setattr(reading, "_CHUNK", 8)
    for number in range(30):
        write(tmp_path / "photos" / f"{number:02d}.png", number)
    (tmp_path / "photos" / "07.png").write_bytes(b"no image")
    return tmp_path / "photos"


def grow(photos):
    """Three new images, one of them first by name, one changed, two gone, one of them in another chunk."""
    for name, seed in (("000.png", 50), ("15b.png", 51), ("99.png", 52), ("20.png", 53)):
        write(photos / name, seed)
    for name in ("03.png", "11.png"):
        (photos / name).unlink()


@pytest.fixture
def decoded(monkeypatch):
    """Ids of the images that are decoded."""
    found, real = [], FolderSource.image

    def image(self, index, **how):
        found.append(self.ids[index])
        return real(self, index, **how)

    monkeypatch.setattr(FolderSource, "image", image)
    return found


def mined(photos, encoder, out):
    return mine_features(photos, CONFIG, encoder=encoder, out=out)


def test_an_increment_reads_what_is_new_or_changed_and_says_so(  # noqa: PLR0917  # fixtures
    photos, encoder, tmp_path, told, decoded, monkeypatch
):
    monkeypatch.setattr(growing.time, "time", lambda: 1e9)
    out = tmp_path / "out"
    first = mined(photos, encoder, out).scores
    assert not first.since.any()
    grow(photos)
    source = FolderSource(photos)
    assert left_to_read(source, resolve_encoder(encoder, source), CONFIG, out=out) == 4
    decoded.clear()
    told.told.clear()
    again = mined(photos, encoder, out)
    assert sorted(decoded) == ["000.png", "15b.png", "20.png", "99.png"]
    assert told.told == ["31 images: 3 new, 1 changed, 2 gone; 4 to embed"]
    fresh = mined(photos, encoder, tmp_path / "fresh")
    np.testing.assert_allclose(again.features, fresh.features, rtol=1e-5, atol=1e-5)
    assert again.scores.bad == fresh.scores.bad
    assert list(again.scores.bad) == ["07.png"]
    kept = Scores.read(out / "scores.parquet")
    assert {kept.ids[at]: int(kept.since[at]) for at in np.flatnonzero(kept.since)} == dict.fromkeys(
        ("000.png", "15b.png", "20.png", "99.png"), 10**9
    )
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["reading"]
    decoded.clear()
    told.told.clear()
    mined(photos, encoder, out)
    assert (decoded, told.told) == ([], [])


def test_what_was_new_stays_dated_when_more_comes(photos, encoder, tmp_path, monkeypatch):
    for moment in (0, 100, 200):
        monkeypatch.setattr(growing.time, "time", lambda moment=moment: moment)
        write(photos / f"a{moment}.png", moment)
        scores = mined(photos, encoder, tmp_path / "out").scores
    assert {scores.ids[at]: int(scores.since[at]) for at in np.flatnonzero(scores.since)} == {
        "a100.png": 100,
        "a200.png": 200,
    }


@pytest.mark.parametrize("stop", ["000.png", "20.png", "99.png"])
def test_an_increment_that_was_stopped_ends_as_one_that_was_not(  # fixtures
    photos, encoder, tmp_path, monkeypatch, stop
):
    mined(photos, encoder, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    grow(photos)
    whole = mined(photos, encoder, tmp_path / "whole")
    real = FolderSource.image

    def image(self, index, **how):
        if self.ids[index] == stop:
            raise KeyboardInterrupt
        return real(self, index, **how)

    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "image", image)
        with pytest.raises(KeyboardInterrupt):
            mined(photos, encoder, tmp_path / "stopped")
    resumed = mined(photos, encoder, tmp_path / "stopped")
    np.testing.assert_array_equal(resumed.features, whole.features)
    np.testing.assert_array_equal(resumed.scores.rarity, whole.scores.rarity)


def test_images_that_come_while_an_increment_is_stopped_are_added(photos, encoder, tmp_path, monkeypatch, decoded):
    out, real = tmp_path / "out", FolderSource.image
    mined(photos, encoder, out)
    grow(photos)

    def image(self, index, **how):
        if self.ids[index] == "99.png":
            raise KeyboardInterrupt
        return real(self, index, **how)

    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "image", image)
        with pytest.raises(KeyboardInterrupt):
            mined(photos, encoder, out)
    write(photos / "zz.png", 60)
    decoded.clear()
    mined(photos, encoder, out)
    assert sorted(decoded) == ["99.png", "zz.png"]


def test_a_killed_move_of_the_reading_loses_nothing(photos, encoder, tmp_path, decoded):
    out = tmp_path / "out"
    mined(photos, encoder, out)
    (out / "reading").rename(out / "reading-before-000")
    grow(photos)
    decoded.clear()
    mined(photos, encoder, out)
    assert sorted(decoded) == ["000.png", "15b.png", "20.png", "99.png"]


def test_another_encoder_reads_all_anew_and_says_why(photos, encoder, tmp_path, told, decoded):
    out = tmp_path / "out"
    mined(photos, encoder, out)
    torch.manual_seed(1)
    other = wrap_encoder(create_encoder(EncoderConfig(width=4), 8).backbone, image_size=8)
    told.told.clear()
    decoded.clear()
    mined(photos, other, out)
    assert told.told == [f"the encoder has changed since {out / 'reading'} was made: all 30 images are embedded again"]
    assert len(decoded) == 30


def test_arrays_are_told_apart_by_pixels_and_files_by_time(photos):
    pixels = np.zeros((3, 8, 8), dtype=np.uint8)
    before = image_versions(SubsetSource(ArraySource(pixels), [0, 1, 2]))
    pixels[1, 0, 0] = 1
    assert (image_versions(ArraySource(pixels)) != before).tolist() == [False, True, False]
    file = photos / "00.png"
    state = image_versions(FolderSource(photos))[0]
    os.utime(file, ns=(1, 1))
    assert image_versions(FolderSource(photos))[0] != state


def old_and_new(count=200, few=12):
    """Vectors of two kinds, of which the old ones hold one; the new kind is the last of the new ones."""
    rng = np.random.default_rng(0)
    centers = np.eye(16)[:2] * 4
    old = centers[0] + rng.normal(size=(count, 16))
    new = np.concatenate(
        [centers[0] + rng.normal(size=(count // 2, 16)), centers[1] + 0.1 * rng.normal(size=(few, 16))]
    )
    return old.astype(np.float32), new.astype(np.float32)


def test_a_new_kind_comes_first_and_knows_its_nearest_old_images(tmp_path):
    old, new = old_and_new()
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "new.npy", new)
    scores = mine(tmp_path / "new.npy", CONFIG, against=tmp_path / "old.npy", out=tmp_path / "out")
    assert sorted(scores.order()[:12].tolist()) == list(range(100, 112))
    (column,) = (values for name, values in scores.columns.items() if name.startswith("against_"))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (old, new)]
    similarity = np.sort(unit[1] @ unit[0].T, axis=1)[:, ::-1]
    k = int(next(name for name in scores.columns if name.startswith("against_")).rpartition("_")[2])
    np.testing.assert_allclose(column, 1 - similarity[:, :k].mean(axis=1), atol=1e-5)
    assert [group.rare for group in scores.groups] == [False, True]
    assert (scores.old.rows[:, 0] == (unit[1] @ unit[0].T).argmax(axis=1)).all()


def test_images_that_are_old_already_rank_last_and_are_counted(tmp_path, told):
    old, new = old_and_new()
    np.save(tmp_path / "old.npy", np.concatenate([old, new[:5], new[100:]]))
    np.save(tmp_path / "new.npy", new)
    scores = mine(tmp_path / "new.npy", CONFIG, against=tmp_path / "old.npy", out=tmp_path / "out")
    assert "17 of 112 new images are among the old ones already: they rank last" in told.told
    assert set(scores.order()[-17:].tolist()) == {*range(5), *range(100, 112)}
    assert set(np.flatnonzero(scores.columns["against_5"] == 0).tolist()) == {*range(5), *range(100, 112)}
    assert not any(group.rare for group in scores.groups)


def test_a_collection_compared_with_itself_is_named_as_such(tmp_path, told):
    np.save(tmp_path / "new.npy", old_and_new()[1])
    mine(tmp_path / "new.npy", CONFIG, against=tmp_path / "new.npy", out=tmp_path / "out")
    assert "every new image is among the old ones already: none is new, so their order has no meaning" in told.told


def test_one_new_image_is_ranked(photos, encoder, tmp_path):
    write(tmp_path / "new" / "one.png", 99)
    scores = mine(tmp_path / "new", CONFIG, encoder=encoder, against=photos, out=tmp_path / "out")
    assert scores.order().tolist() == [0]
    page = write_page(tmp_path / "page.html", scores, tmp_path / "new")
    assert "photos/" in (tmp_path / "page_files").glob("data-*.js").__next__().read_text()
    assert page.is_file()


def test_a_finished_mine_serves_as_the_old_images_and_nothing_is_embedded_again(photos, encoder, tmp_path, decoded):
    write(tmp_path / "new" / "one.png", 99)
    write(tmp_path / "new" / "two.png", 98)
    mined(photos, encoder, tmp_path / "old")
    by_source = mine(tmp_path / "new", CONFIG, encoder=encoder, against=photos, out=tmp_path / "a")
    decoded.clear()
    by_folder = mine(tmp_path / "new", CONFIG, encoder=encoder, against=tmp_path / "old", out=tmp_path / "b")
    assert sorted(set(decoded)) == ["one.png", "two.png"]
    assert by_folder.old.ids == by_source.old.ids
    assert by_folder.old.files == by_source.old.files
    np.testing.assert_array_equal(by_folder.rarity, by_source.rarity)
    embed(photos, tmp_path / "old.parquet", encoder=encoder, batch_size=4)
    by_file = mine(tmp_path / "new", CONFIG, encoder=encoder, against=tmp_path / "old.parquet", out=tmp_path / "c")
    np.testing.assert_allclose(by_file.rarity, by_source.rarity, atol=1e-6)


@pytest.mark.parametrize("of", ["mine", "embeddings"])
def test_old_features_of_another_encoder_are_refused_in_one_line(photos, encoder, tmp_path, of):
    torch.manual_seed(1)
    other = wrap_encoder(create_encoder(EncoderConfig(width=4), 8).backbone, image_size=8)
    place = tmp_path / ("old" if of == "mine" else "old.parquet")
    if of == "mine":
        mined(photos, other, place)
    else:
        embed(photos, place, encoder=other, batch_size=4)
    with pytest.raises(InputError, match="is of another encoder") as caught:
        mine(photos, CONFIG, encoder=encoder, against=place, out=tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_embed_takes_over_what_has_not_changed(photos, encoder, tmp_path, told, decoded):
    out = tmp_path / "e.parquet"
    embed(photos, out, encoder=encoder, batch_size=4)
    grow(photos)
    decoded.clear()
    told.told.clear()
    embed(photos, out, encoder=encoder, batch_size=4)
    assert sorted(decoded) == ["000.png", "07.png", "15b.png", "20.png", "99.png"]  # unreadable ones are tried again
    assert told.told == ["31 images: 4 new, 1 changed, 2 gone; 5 to embed"]
    embed(photos, tmp_path / "fresh.parquet", encoder=encoder, batch_size=4)
    again, fresh = read_embeddings(out), read_embeddings(tmp_path / "fresh.parquet")
    assert again.ids == fresh.ids
    np.testing.assert_allclose(again.values, fresh.values, rtol=1e-5, atol=1e-5)
    torch.manual_seed(1)
    other = wrap_encoder(create_encoder(EncoderConfig(width=4), 8).backbone, image_size=8)
    told.told.clear()
    embed(photos, out, encoder=other, batch_size=4)
    assert told.told == [
        f"the encoder or its settings have changed since {out} was made: all 31 images are embedded again"
    ]


def test_other_measures_of_the_same_encoder_read_all_anew_and_say_so(photos, encoder, tmp_path, told):
    out = tmp_path / "out"
    mined(photos, encoder, out)
    told.told.clear()
    mine_features(photos, replace(CONFIG, ratios=(0.5,)), encoder=encoder, out=out)
    assert told.told[0].startswith("the measures or settings (ratios, views, loss, image size) have changed since")
