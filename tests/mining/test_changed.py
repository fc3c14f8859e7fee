"""Photos that are replaced under the same names, and other collections, are not taken for what was read before."""

import os
import time

import cv2
import numpy as np
import pytest

from sdclr.data.folder import FolderSource
from sdclr.errors import InputError
from sdclr.evaluation.embed import embed
from sdclr.files import claimed
from sdclr.mining import reading
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import left_to_read, mine, mine_features
from sdclr.mining.plan import default_folder
from sdclr.training.resolve import resolve_encoder

CONFIG = MineConfig(batch_size=8, amp="none")


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (40, 40)))


@pytest.fixture
def photos(tmp_path):
    for number in range(40):
        write(tmp_path / "photos" / f"{number:02d}.png", number)
    return tmp_path / "photos"


def test_replaced_photos_are_read_again(photos, simclr_run, tmp_path, told, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK", 8)
    out = tmp_path / "out"
    mine(photos, CONFIG, encoder=simclr_run, out=out)
    write(photos / "17.png", 100)
    used = resolve_encoder(simclr_run, FolderSource(photos))
    assert left_to_read(FolderSource(photos), used, CONFIG, out=out) == 1
    told.told.clear()
    again = mine(photos, CONFIG, encoder=simclr_run, out=out)
    assert [line for line in told.told if "changed" in line] == ["40 images: 0 new, 1 changed, 0 gone; 1 to embed"]
    fresh = mine(photos, CONFIG, encoder=simclr_run, out=tmp_path / "fresh")
    assert again.order().tolist() == fresh.order().tolist()
    features = [np.load(folder / "reading" / "features.npy") for folder in (out, tmp_path / "fresh")]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-4)  # one image is a smaller batch
    assert left_to_read(FolderSource(photos), used, CONFIG, out=out) == 0


def test_scores_of_replaced_photos_are_not_used_again(photos, simclr_run, tmp_path):
    out = tmp_path / "out"
    mine(photos, CONFIG, encoder=simclr_run, out=out)
    assert mine_features(photos, CONFIG, encoder=simclr_run, out=out, reuse=True).scores.projection is not None
    write(photos / "17.png", 100)
    computed = mine_features(photos, CONFIG, encoder=simclr_run, out=out, reuse=True).scores
    fresh = mine(photos, CONFIG, encoder=simclr_run, out=tmp_path / "fresh")
    assert computed.order().tolist() == fresh.order().tolist()


@pytest.mark.parametrize("moment", [0.0, 4e9])  # long ago, and a century ahead
def test_times_of_files_need_not_make_sense(  # noqa: PLR0917  # fixtures
    photos, simclr_run, tmp_path, moment, monkeypatch, told
):
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))  # set back at each look
    for file in photos.iterdir():
        os.utime(file, (moment, moment))
    out = tmp_path / "out"
    before = mine(photos, CONFIG, encoder=simclr_run, out=out)
    told.begun.clear()
    again = mine(photos, CONFIG, encoder=simclr_run, out=out)
    assert not [line for line in told.told if "changed" in line]
    assert again.order().tolist() == before.order().tolist()


def test_a_replaced_photo_is_embedded_anew_after_a_stop(photos, simclr_run, tmp_path, monkeypatch):
    from sdclr.evaluation import embed as module

    out = tmp_path / "vectors.parquet"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_put_together", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(photos, out, encoder=simclr_run, batch_size=8)
    write(photos / "17.png", 100)
    embed(photos, out, encoder=simclr_run, batch_size=8)
    embed(photos, tmp_path / "fresh.parquet", encoder=simclr_run, batch_size=8)
    assert out.read_bytes() == (tmp_path / "fresh.parquet").read_bytes()


def test_each_collection_has_a_folder_of_its_own_in_a_run(photos, simclr_run, collection):
    used = resolve_encoder(simclr_run, collection)
    own, other = (default_folder(source, used) for source in (collection, FolderSource(photos)))
    assert own == simclr_run.path / "mine"
    assert other == simclr_run.path / "mine-photos"


def test_a_second_process_gets_one_line_with_the_number_of_the_first(photos, simclr_run, tmp_path):
    out = tmp_path / "out"
    with claimed(out, ".mining"), pytest.raises(InputError) as caught:
        mine(photos, CONFIG, encoder=simclr_run, out=out)
    assert str(caught.value) == (
        f"another process (PID {os.getpid()}) mines into {out}: wait for it, or name another folder with --out"
    )
    parts = tmp_path / ".vectors.parquet.parts"
    with claimed(parts, ".embedding"), pytest.raises(InputError, match=rf"\(PID {os.getpid()}\) writes into"):
        embed(photos, tmp_path / "vectors.parquet", encoder=simclr_run)
    assert embed(photos, tmp_path / "vectors.parquet", encoder=simclr_run)[0] == 40
