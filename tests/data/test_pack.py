"""`sdclr pack`: what it writes, and that a killed call goes on to the same."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image
from webdataset import tariterators

import sdclr
from sdclr.cli import main
from sdclr.data.pack import pack
from sdclr.data.sources import open_source
from sdclr.errors import InputError
from sdclr.features.inspect import inspect_images


@pytest.fixture
def photos(tmp_path):
    """Two classes in several formats, with names that would clash as keys, and what is not an image."""
    random = np.random.default_rng(0)
    for number in range(11):
        file = tmp_path / "photos" / ("owl" if number % 3 else "jay") / f"a.{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        for ending in (".png", ".jpg") if number == 4 else (".jpg",):
            Image.fromarray(pixels).save(file.with_name(file.name + ending))
    (tmp_path / "photos" / "jay" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "jay" / "empty.png").write_bytes(b"")
    (tmp_path / "photos" / "jay" / "notes.txt").write_text("x")
    return tmp_path / "photos"


def read_by_webdataset(file):
    with file.open("rb") as opened:
        return list(tariterators.group_by_keys(tariterators.tar_file_expander([{"url": file.name, "stream": opened}])))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".pack")}


def test_images_keep_bytes_ids_and_labels(photos, tmp_path):
    done = pack(photos, tmp_path / "out", shard_images=5)
    source, packed = open_source(photos), open_source(f"wds:{tmp_path / 'out'}")
    good = [index for index, name in enumerate(source.ids) if "broken" not in name and "empty" not in name]
    assert (done.shards, done.images, done.bad) == (3, 12, 3)
    assert list(packed.ids) == [source.ids[index] for index in good]
    assert packed.classes == source.classes == ("jay", "owl")
    assert packed.labels.tolist() == source.labels[good].tolist()
    for place, index in enumerate(good):
        assert packed.encoded(place) == source.file(index).read_bytes()
    listed = (tmp_path / "out" / "bad_images.csv").read_text()
    assert all(name in listed for name in ("jay/broken.jpg,not an image", "jay/empty.png,zero bytes", "jay/notes.txt"))
    theirs = [sample for file in sorted((tmp_path / "out").glob("*.tar")) for sample in read_by_webdataset(file)]
    assert [sample["__key__"] for sample in theirs] == [f"{number:09d}" for number in range(12)]
    assert [int(sample["cls"]) for sample in theirs] == packed.labels.tolist()


def test_shards_hold_no_more_than_they_may(photos, tmp_path):
    done = pack(photos, tmp_path / "out", shard_gb=12e-6)
    sizes = [file.stat().st_size for file in (tmp_path / "out").glob("*.tar")]
    assert max(sizes) <= 12_000
    assert done.shards == len(sizes) > 3
    assert done.bytes == sum(sizes)
    for file in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(file) as tar:  # reads to the end
            assert tar.getmembers()


def test_a_shuffled_pack_is_the_same_each_time(photos, tmp_path):
    for name in "ab":
        pack(photos, tmp_path / name, shuffle=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    ids = list(open_source(f"wds:{tmp_path / 'a'}").ids)
    assert ids != sorted(ids)
    assert sorted(ids) == sorted(name for name in open_source(photos).ids if "/a." in name)


def test_larger_images_are_shrunk_and_smaller_ones_copied(photos, tmp_path):
    pack(photos, tmp_path / "out", shorter_side=24)
    source, packed = open_source(photos), open_source(f"wds:{tmp_path / 'out'}")
    for index, name in enumerate(packed.ids):
        with Image.open(photos / name) as before, Image.open(io.BytesIO(packed.encoded(index))) as after:
            assert min(after.size) == min(24, *before.size)
        if min(before.size) <= 24:
            assert packed.encoded(index) == (photos / name).read_bytes()
    assert len(source) == len(packed) + 2


def test_pixels_in_memory_become_png_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 8, 3), dtype=np.uint8)
    pack(pixels, tmp_path / "out")
    packed = open_source(f"wds:{tmp_path / 'out'}")
    assert all(np.array_equal(packed.image(index), pixels[index]) for index in range(7))
    assert packed.labels is None


@pytest.mark.parametrize("stop", [1, 3, 6, 9])
def test_a_call_that_stops_goes_on_to_the_same_shards(photos, tmp_path, monkeypatch, stop):
    pack(photos, tmp_path / "whole", shard_images=2)
    from sdclr.data import pack as module

    calls = iter(range(100))

    def failing(*given):
        if next(calls) == stop:
            raise KeyboardInterrupt
        return written(*given)

    written = module._members
    with monkeypatch.context() as patch:
        patch.setattr(module, "_members", failing)
        with pytest.raises(KeyboardInterrupt):
            pack(photos, tmp_path / "out", shard_images=2)
    log = tmp_path / "out" / ".packed.jsonl"
    log.write_bytes(log.read_bytes() + b'{"shard": "shard-00')  # as a line that was being written
    done = pack(photos, tmp_path / "out", shard_images=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert pack(photos, tmp_path / "out", shard_images=2) == done


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_shards(tmp_path):
    """Slow since each kill takes a start of Python and torch."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03d}.png")
    command = [sys.executable, "-m", "sdclr", "pack", "images", "out", "--shard-images", "5", "--quiet"]
    for _ in range(2):
        process = subprocess.Popen(command, cwd=tmp_path)
        before = len(list((tmp_path / "out").glob("*.tar"))) if (tmp_path / "out").exists() else 0
        while process.poll() is None and len(list(tmp_path.glob("out/*.tar"))) < before + 5:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out" / "manifest.json").exists()
    subprocess.run(command, cwd=tmp_path, check=True)
    pack(tmp_path / "images", tmp_path / "whole", shard_images=5)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_folders_images_and_settings_are_refused(photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "shard-000000.tar").write_text("mine")
    with pytest.raises(InputError, match=r"full is not empty, it holds 'shard-000000\.tar'; name a new"):
        pack(photos, tmp_path / "full")
    assert (tmp_path / "full" / "shard-000000.tar").read_text() == "mine"
    pack(photos, tmp_path / "out")
    for changed in ({"shard_images": 3}, {"shuffle": True}):
        with pytest.raises(InputError, match="holds shards of other images or settings; name a new folder"):
            pack(photos, tmp_path / "out", **changed)
    with pytest.raises(InputError, match="shard_images and shorter_side are 1 or more"):
        pack(photos, tmp_path / "new", shard_images=0)
    with pytest.raises(InputError, match=r"none of its images can be packed; .*bad_images\.csv has the reasons"):
        pack(Broken(), tmp_path / "none")


class Broken:
    name, labels, classes = "broken", None, ()
    ids = ("a", "b")

    def __len__(self):
        return 2

    def image(self, index, *, min_side=None):  # noqa: ARG002  # what sources take
        raise sdclr.BadImageError(self.ids[index], "torn")


def test_damage_and_loss_of_shards_are_found(photos, tmp_path, capsys):
    out = tmp_path / "out"
    pack(photos, out, shard_images=4)
    assert inspect_images(f"wds:{out}", decode=True).unreadable == ()
    file = out / "shard-000001.tar"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # behind the last image, where no decoder looks
    file.write_bytes(data)
    main(["info", f"wds:{out}", "--decode", "--no-measure"])
    said = " ".join(capsys.readouterr().out.split())
    assert "shard-000001.tar: other bytes than when it was packed" in said
    ids = list(open_source(f"wds:{out}").ids)
    file.write_bytes(data[:2000])
    (out / "shard-000002.tar").unlink()
    left = open_source(f"wds:{out}")
    lost = [item.id for item in left.skipped if "missing from" in item.reason]
    assert sorted([*left.ids, *lost]) == sorted(ids)
    assert len(lost) > 4
    assert all(item.counted for item in left.skipped)


def test_a_manifest_that_was_changed_is_refused(photos, tmp_path):
    pack(photos, tmp_path / "out")
    file = tmp_path / "out" / "manifest.json"
    values = json.loads(file.read_text())
    for change, said in (
        ({"images": 3}, "another checksum"),
        ({"checksum": None, "shards": {"shard-000000.tar": {}}}, "has no 'sha256'"),
        ({"checksum": None, "shards": {"../shard-000000.tar": {}}}, "which is not a file beside it"),
        (
            {"checksum": None, "shards": {"shard-000000.tar": {**values["shards"]["shard-000000.tar"], "first": 7}}},
            "other images",
        ),
    ):
        changed = {key: value for key, value in {**values, **change}.items() if value is not None}
        file.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=said):
            open_source(f"wds:{tmp_path / 'out'}")


def test_names_that_are_not_utf8_are_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "x.png")
    try:
        (tmp_path / "images" / "x.png").rename(tmp_path / "images" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    pack(tmp_path / "images", tmp_path / "out")
    assert list(open_source(f"wds:{tmp_path / 'out'}").ids) == [name]


def test_the_command_says_what_it_did_and_what_is_next(photos, tmp_path, capsys):
    main(["pack", str(photos), str(tmp_path / "out"), "--shard-images", "5"])
    said = capsys.readouterr().out
    assert "packed: 12 images in 3 shards" in said
    assert "3 left out, listed in" in said
    assert f"sdclr mine wds:{tmp_path / 'out'}" in said


def test_a_range_that_shards_do_not_keep_is_told(tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    Image.fromarray(np.full((9, 9), 700, np.uint16)).save(tmp_path / "scans" / "a.png")
    main(["pack", f"{tmp_path / 'scans'},intensities=0,4095", str(tmp_path / "out")])
    told = "".join(capsys.readouterr()).replace("\n", " ")
    assert "without your range: give it again" in told
    assert "packed: 1 image in 1 shard, 2.0 kB" in told  # header, one block, two blocks at the end
    assert "intensities 0 to 4,095" in told
