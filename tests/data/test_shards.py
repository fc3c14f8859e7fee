"""Tar shards in the WebDataset layout, beside what WebDataset itself reads of them."""

import copy
import gzip
import io
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset import tariterators

import sdclr
from sdclr.data import shards as module
from sdclr.data.inventory import take_inventory
from sdclr.data.scan import scan
from sdclr.data.shards import ShardSource
from sdclr.data.sources import SubsetSource, fingerprint, image_blocks, open_source
from sdclr.data.tar_index import read_index
from sdclr.errors import BadImageError, InputError
from sdclr.loading.streaming import StreamLoader

CONFIG = sdclr.ViewConfig(image_size=8)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def picture(value, kind="PNG", side=12):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (side, side + value % 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(path, members, kind=tarfile.GNU_FORMAT):
    """A tar of names and bytes; a `TarInfo` stands for itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(first, count):
    for number in range(first, first + count):
        yield f"{number:05d}.png", picture(number)
        yield f"{number:05d}.cls", str(number % 3).encode()


@pytest.fixture
def folder(tmp_path):
    """Three shards of uneven sizes."""
    for number, (first, count) in enumerate([(0, 5), (5, 9), (14, 3)]):
        write(tmp_path / "birds" / f"train-{number:06d}.tar", samples(first, count))
    return tmp_path / "birds"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_webdataset_reads_the_same_samples(tmp_path, kind):
    long = "d" * 90 + "/" + "e" * 90
    odd = [(f"{long}/7.jpg", picture(7, "JPEG")), (f"{long}/7.cls", b"2")]
    named = [("ünï/8.PNG", picture(8)), ("ünï/8.json", b'{"label": 1, "text": "x"}')] if kind else []
    file = write(tmp_path / "a.tar", [*samples(0, 4), *odd, *named], kind)
    ours = open_source(file)
    with file.open("rb") as opened:  # as `webdataset.WebDataset` does, which leaves the file open
        theirs = list(
            tariterators.group_by_keys(tariterators.tar_file_expander([{"url": file.name, "stream": opened}]))
        )
    assert list(ours.ids) == [f"a.tar/{sample['__key__']}" for sample in theirs]
    for index, sample in enumerate(theirs):
        assert ours.encoded(index) == next(sample[ending] for ending in ("png", "jpg") if ending in sample)
        assert ours.labels[index] == int(sample.get("cls", 1))
    assert ours.skipped == []


def test_folders_patterns_and_splits(folder):
    write(folder / "test-000000.tar", samples(50, 2))
    whole = open_source(f"wds:{folder}")
    assert (whole.name, len(whole), whole.classes) == ("birds", 17, ())
    assert whole.ids[5] == "train-000001.tar/00005"
    assert whole.ids[3:6] == [whole.ids[3], whole.ids[4], whole.ids[5]]
    assert whole.labels.tolist() == [number % 3 for number in range(17)]
    assert len(open_source(f"wds:{folder}:test")) == len(open_source(f"wds:{folder}", split="test")) == 2
    assert len(open_source(f"wds:{folder}/train-{{000000..000001}}.tar")) == 14
    assert len(open_source(folder / "train-000002.tar")) == 3
    assert fingerprint(copy.deepcopy(whole)) == fingerprint(whole)
    assert np.array_equal(whole.image(16), np.asarray(Image.open(io.BytesIO(picture(16)))))
    assert image_blocks(SubsetSource(whole, [16, 0, 5])).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("wds:https://host/a.tar", "not through a network or a pipe; copy them to a folder, or mount it"),
        ("wds:pipe:curl host", "not through a network or a pipe"),
        ("wds:s3://bucket/{00..99}.tar", "not through a network"),
        ("wds:{}/no", "no is not a file; give a folder of .tar files"),
        ("wds:{}/birds/train-{{000000..000005}}.tar", "train-000003.tar is not a file"),
        ("wds:{}/birds/train-{{0..99999999}}.tar", "stands for 100,000,000 shards, more than the limit"),
        ("wds:{}", r"holds no \.tar files"),
        ("wds:{}/birds:val", "holds no split 'val'; choose from train"),
    ],
)
def test_what_is_not_there_is_one_line(folder, spec, said):
    with pytest.raises(InputError, match=said) as caught:
        open_source(spec.format(folder.parent) if "//" not in spec else spec)
    assert "\n" not in str(caught.value)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_is_no_image_is_listed_and_nothing_leaves_the_tar(tmp_path):
    members = [
        ("good.jpg", picture(1, "JPEG")),
        ("../out.png", picture(2)),
        ("/etc/out.png", picture(2)),
        ("good.jpg", picture(3, "JPEG")),
        (special("link.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.png", tarfile.LNKTYPE, "good.jpg"), b""),
        (special("device.png", tarfile.CHRTYPE), b""),
        (special("folder", tarfile.DIRTYPE), b""),
        ("without suffix", picture(4)),
        ("only.cls", b"1"),
        ("two.jpg", picture(5, "JPEG")),
        ("two.png", picture(6)),
        ("mask.seg.png", picture(7)),
        ("mask.jpg", picture(8, "JPEG")),
        ("./dot.png", picture(9)),
    ]
    source = open_source(write(tmp_path / "odd.tar", members))
    assert list(source.ids) == [f"odd.tar/{key}" for key in ("good", "two", "mask", "dot")]
    assert source.encoded(0) == picture(1, "JPEG")
    assert source.encoded(2) == picture(8, "JPEG")
    reasons = {item.id.removeprefix("odd.tar/"): item.reason for item in source.skipped}
    assert reasons == {
        "../out.png": "its name leads out of the tar",
        "/etc/out.png": "its name leads out of the tar",
        "good.jpg": "its name occurs twice",
        "link.png": "no regular file but a link, a device or the like",
        "hard.png": "no regular file but a link, a device or the like",
        "device.png": "no regular file but a link, a device or the like",
        "without suffix": "its suffix is not that of an image",
        "only.cls": "a sample without an image",
        "two.png": "a further image of its sample",
    }
    assert not list(tmp_path.glob("*.png"))


def test_cut_and_damaged_tars_give_what_they_have(folder):
    file = folder / "train-000001.tar"
    data = file.read_bytes()
    whole = [f"train-000001.tar/{number:05d}" for number in range(5, 14)]
    seen = set()
    for cut in (*range(0, len(data), 1500), len(data) - 512):
        file.write_bytes(data[:cut])
        source = open_source(f"wds:{folder}")
        ours = [name for name in source.ids if name.startswith("train-000001")]
        assert ours == whole[: len(ours)]
        seen.add(len(ours))
        ended = data[cut : cut + 512] == bytes(512)
        assert len(source.skipped) >= (0 if ended else 1), cut
        assert scan(source) == source.skipped
    assert {0, 9} <= seen
    assert len(seen) > 4
    file.write_bytes(data[:3000] + os.urandom(512) + data[3512:])
    assert open_source(f"wds:{folder}").skipped or scan(open_source(f"wds:{folder}"))


def test_files_that_are_no_tar(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tar").write_bytes(b"hello" * 300)
    with pytest.raises(InputError, match=r"no image is in its tar files \(1\): x.tar: no tar; give tars"):
        open_source(f"wds:{tmp_path / 'a'}")
    (tmp_path / "a" / "x.tar").write_bytes(gzip.compress(write(tmp_path / "b.tar", samples(0, 3)).read_bytes()))
    with pytest.raises(InputError, match=r"compressed: unpack it to a plain \.tar"):
        open_source(f"wds:{tmp_path / 'a'}")


def test_claims_of_size_take_no_memory(tmp_path, monkeypatch):
    """A name of a gigabyte, an image of a terabyte, more members than the limit."""
    info = tarfile.TarInfo("huge.png")
    info.size = 2**40
    members = write(tmp_path / "b.tar", samples(0, 2)).read_bytes().rstrip(b"\0")
    (tmp_path / "a.tar").write_bytes(members + bytes(-len(members) % 512) + info.tobuf())
    source = open_source(tmp_path / "a.tar")
    assert [(item.id, item.reason) for item in source.skipped] == [("a.tar/huge.png", "the tar is cut short here")]
    named = write(tmp_path / "c.tar", [*samples(0, 1), ("x" * 70_000 + ".png", picture(1)), *samples(1, 1)])
    found = open_source(named)
    assert "SDCLR_MAX_TEXT allows more" in found.skipped[0].reason
    monkeypatch.setenv("SDCLR_MAX_ROW_GROUP", "1M")
    large = open_source(write(tmp_path / "d.tar", [*samples(0, 1), ("l.png", picture(1) + bytes(2**20))]))
    with pytest.raises(BadImageError, match="SDCLR_MAX_ROW_GROUP raises it"):
        large.image(1)
    monkeypatch.setenv("SDCLR_MAX_ROWS", "5")
    with pytest.raises(InputError, match="has 6 members or more, more than the limit of 5"):
        open_source(write(tmp_path / "e.tar", samples(0, 4)))


def test_labels_are_numbers_names_or_absent(tmp_path):
    members = [("a.png", picture(1)), ("a.cls", b"owl\n"), ("b.png", picture(2)), ("b.json", b'{"label": "jay"}')]
    members += [("c.png", picture(3)), ("c.json", b'{"width": 3}'), ("d.png", picture(4)), ("d.json", b"no json")]
    source = open_source(write(tmp_path / "a.tar", members))
    assert source.classes == ("jay", "owl")
    assert source.labels.tolist() == [1, 0, -1, -1]
    assert open_source(write(tmp_path / "b.tar", [("a.png", picture(1))])).labels is None


def test_the_index_is_kept_until_the_shard_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = folder / "train-000000.tar"
    first = read_index(file)
    with monkeypatch.context() as patch:
        patch.setattr("sdclr.data.tar_index._built", None)
        assert read_index(file).equals(first)
    for kept in (folder.parent / "cache").rglob("*.parquet"):
        kept.write_bytes(kept.read_bytes()[:-9])  # damaged: made again
    assert read_index(file).equals(first)
    write(file, samples(20, 2))
    os.utime(file, ns=(1, 1))
    assert read_index(file)["key"].to_pylist() == ["00020", "00021"]


def test_a_shard_that_goes_away_or_shrinks_makes_images_bad(folder):
    source = open_source(f"wds:{folder}")
    (folder / "train-000000.tar").unlink()
    with (folder / "train-000002.tar").open("r+b") as file:
        file.truncate(700)
    for index, said in ((0, "No such file"), (16, "truncated")):
        with pytest.raises(BadImageError, match=said):
            source.image(index)


@pytest.mark.parametrize("buffer", [0, 6])
def test_ranks_and_workers_see_each_image_once_and_resume_inside_an_epoch(folder, buffer):
    source = open_source(f"wds:{folder}")
    how = {"seed": 3, "batch_size": 4, "shuffle_buffer": buffer, "views": 1}
    whole = list(StreamLoader(source, CONFIG, **how).epoch(1))
    seen = np.concatenate([batch.indices for batch in whole])
    assert len(np.unique(seen)) == len(seen) == 16
    resumed = list(StreamLoader(source, CONFIG, workers=2, **how).epoch(1, start=2))
    for one, two in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one.view1, two.view1)
    shares = [
        np.concatenate([batch.indices for batch in StreamLoader(source, CONFIG, rank=rank, world=2, **how).epoch(1)])
        for rank in (0, 1)
    ]
    assert sorted(np.concatenate(shares)) == sorted(seen)


def test_checksums_are_those_of_the_manifest_alone(folder):
    assert open_source(f"wds:{folder}").damaged_files() == []
    (folder / module.MANIFEST).write_text('{"format": "of another tool"}')
    assert len(open_source(f"wds:{folder}")) == 17
    found = take_inventory(open_source(f"wds:{folder}"), decode=True)
    assert (found.kind, found.images, found.formats, found.unreadable) == ("tar shards", 17, {"PNG": 17}, ())
    assert found.classes == {"0": 6, "1": 6, "2": 5}
    assert ShardSource([folder / "train-000000.tar"]).stored(1).file == folder / "train-000000.tar"


def test_a_folder_of_shards_without_the_prefix_names_it(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    with pytest.raises(InputError, match=f"holds tar files and no images; give wds:{tmp_path} if"):
        open_source(tmp_path)
