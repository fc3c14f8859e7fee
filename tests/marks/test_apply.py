"""What marks become: manifests, links, class folders and lists."""

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sdclr
from sdclr.data.sources import ArraySource
from sdclr.errors import InputError
from sdclr.marks.apply import apply_marks
from sdclr.marks.rows import Mark, Marks

SAID = {"a/0.png": "drop", "a/1.png": "=cat", "b/0.png": "keep=dog", "b/3.png": "keep", "top.png": ""}


def labels_of(source):
    return {
        image_id: source.classes[number] if number >= 0 else ""
        for image_id, number in zip(source.ids, source.labels.tolist(), strict=True)
    }


def test_marks_alone_list_what_is_marked_and_kept(tmp_path, images, marked, tree):
    before = tree(images)
    done = apply_marks(marked(SAID), manifest=tmp_path / "kept.csv", drop_list=tmp_path / "drop.txt")
    source = sdclr.open_source(tmp_path / "kept.csv")
    assert labels_of(source) == {"a/1.png": "cat", "b/0.png": "dog", "b/3.png": ""}
    assert [source.file(index) for index in range(3)] == [images / name for name in source.ids]
    assert (tmp_path / "drop.txt").read_text() == f"{images / 'a/0.png'}\n"
    assert (len(done.images.kept), len(done.images.dropped), done.images.silent, done.unlabeled) == (3, 1, 1, 1)
    assert done.written.keys() == {"manifest", "drop_list"}
    assert tree(images) == before


def test_with_the_collection_everything_else_is_kept(tmp_path, images, marked):
    apply_marks(marked(SAID), images, manifest=tmp_path / "kept.parquet")
    source = sdclr.open_source(tmp_path / "kept.parquet")
    assert labels_of(source) == {"a/1.png": "cat", "b/0.png": "dog", "b/3.png": "", "b/deep/2.png": "", "top.png": ""}
    done = apply_marks(marked(SAID), images, manifest=tmp_path / "few.csv", only_marked=True)
    assert list(sdclr.open_source(tmp_path / "few.csv").ids) == ["a/1.png", "b/0.png", "b/3.png"]
    assert done.images.source is not None


def test_the_labels_of_the_collection_stay_unless_a_mark_corrects_them(tmp_path, images, marked):
    (images / "top.png").unlink()
    apply_marks(marked({"a/0.png": "=b", "b/0.png": "drop"}), images, manifest=tmp_path / "kept.csv")
    found = labels_of(sdclr.open_source(tmp_path / "kept.csv"))
    assert found == {"a/0.png": "b", "a/1.png": "a", "b/3.png": "b", "b/deep/2.png": "b"}


def test_without_labels_a_manifest_has_none(tmp_path, images, marked):
    apply_marks(marked({"a/0.png": "drop"}), images, manifest=tmp_path / "kept.csv")
    assert sdclr.open_source(tmp_path / "kept.csv").labels is None


@pytest.mark.parametrize("how", ["symlink", "hardlink", "copy"])
def test_a_folder_of_links_or_copies(tmp_path, images, marked, how, tree):
    before = tree(images)
    apply_marks(marked(SAID), links=tmp_path / "links", how=how)
    source = sdclr.open_source(tmp_path / "links")
    assert list(source.ids) == ["a/1.png", "b/0.png", "b/3.png"]
    for image_id in source.ids:
        target, file = tmp_path / "links" / image_id, images / image_id
        assert target.read_bytes() == file.read_bytes()
        assert target.is_symlink() == (how == "symlink")
        assert target.samefile(file) == (how != "copy")
    assert tree(images) == before
    listed = sdclr.open_source(tmp_path / "links" / "manifest.csv")
    assert labels_of(listed) == {"a/1.png": "cat", "b/0.png": "dog", "b/3.png": ""}
    assert listed.image(0).shape == (6, 5, 3)


def identity(path):
    """What changes if a file is written again; reading it changes only the time of access."""
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def test_a_folder_may_be_begun_and_may_grow(tmp_path, marked):
    for how in ("symlink", "hardlink", "copy"):
        folder = tmp_path / how
        apply_marks(marked(SAID), classes=folder, how=how)
        (folder / "cat" / "a" / "1.png").unlink()  # as if stopped before it
        (folder / ".sdclr-apply.tmp").write_bytes(b"half")
        before = identity(folder / "dog" / "b" / "0.png")
        apply_marks(marked(SAID | {"b/3.png": "=cat"}), classes=folder, how=how)
        assert labels_of(sdclr.open_source(folder)) == {
            "cat/a/1.png": "cat",
            "cat/b/3.png": "cat",
            "dog/b/0.png": "dog",
        }
        assert identity(folder / "dog" / "b" / "0.png") == before
        assert not (folder / ".sdclr-apply.tmp").exists()
        with pytest.raises(InputError, match=r"contains 'dog/b/0.png', which these marks do not place"):
            apply_marks(marked(SAID | {"b/0.png": "=cat"}), classes=folder, how=how)


def test_class_folders_have_the_labels(tmp_path, marked):
    done = apply_marks(marked(SAID), classes=tmp_path / "c")
    assert labels_of(sdclr.open_source(tmp_path / "c")) == {"cat/a/1.png": "cat", "dog/b/0.png": "dog"}
    assert done.unlabeled == 1
    apply_marks(marked(SAID), classes=tmp_path / "d", unlabeled="rest")
    assert labels_of(sdclr.open_source(tmp_path / "d"))["rest/b/3.png"] == "rest"
    assert labels_of(sdclr.open_source(tmp_path / "d" / "manifest.csv"))["b/3.png"] == ""


def test_labels_that_are_no_folders_are_listed(tmp_path, marked):
    said = {"a/0.png": "=x/y", "a/1.png": "=x_y", "b/0.png": "=CON", "b/3.png": "=../up"}
    apply_marks(marked(said), classes=tmp_path / "c")
    with (tmp_path / "c" / "classes.csv").open(newline="") as file:
        folder_of = {row["label"]: (row["folder"], row["images"]) for row in csv.DictReader(file)}
    assert folder_of["x_y"] == ("x_y", "1")
    assert folder_of["x/y"][0].startswith("x_y-")
    assert folder_of["CON"] == ("_CON", "1")
    opened = sdclr.open_source(tmp_path / "c")
    assert set(opened.classes) == {folder for folder, _ in folder_of.values()}
    assert labels_of(sdclr.open_source(tmp_path / "c" / "manifest.csv")) == {
        image_id: text.removeprefix("=") for image_id, text in said.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "images", "marks.csv"]


def test_a_collection_that_moved_is_found_by_id(tmp_path, images, marked):
    file = marked(SAID)
    moved = images.rename(tmp_path / "elsewhere")
    alone = apply_marks(file)
    assert (len(alone.images.missing), len(alone.images.kept)) == (4, 0)
    apply_marks(file, moved, links=tmp_path / "links", only_marked=True)
    assert (tmp_path / "links" / "a" / "1.png").readlink() == moved / "a" / "1.png"


def test_a_collection_opened_from_above_is_found_by_path(images, marked):
    done = apply_marks(marked({"0.png": "drop"}, root=images / "a"), images)
    assert [one.id for one in done.images.dropped] == ["a/0.png"]


def test_missing_and_unknown_images_are_counted_and_the_rest_goes_on(tmp_path, images, marked):
    file = marked(SAID | {"gone.png": "keep"})
    alone = apply_marks(file, manifest=tmp_path / "kept.csv")
    assert [one.id for one in alone.images.missing] == ["gone.png"]
    done = apply_marks(file, images, manifest=tmp_path / "kept.csv")
    assert [row.id for row in done.images.unknown] == ["gone.png"]
    assert len(done.images.kept) == 5
    with pytest.raises(InputError, match=r"marks.csv, row 2: 'x.png' is not among the images of images.*'a/0.png'"):
        apply_marks(marked({"x.png": "drop"}, root=None), images)


def test_marks_of_the_page_find_names_that_are_not_utf8(tmp_path, images, marked, picture):
    odd = os.fsdecode(b"caf\xe9.png")
    picture(images / odd)
    file = marked({"caf\ufffd.png": "=x", "top.png": "keep"}, root=None)  # a browser cannot write the byte
    done = apply_marks(file, images, manifest=tmp_path / "m.csv", links=tmp_path / "links", drop_list=tmp_path / "d")
    assert odd in [one.id for one in done.images.kept if one.label == "x"]
    source = sdclr.open_source(tmp_path / "m.csv")
    assert odd in source.ids
    assert source.image(list(source.ids).index(odd)).shape == (6, 5, 3)
    assert (tmp_path / "links" / odd).is_symlink()
    with pytest.raises(InputError, match=r"not UTF-8, which Parquet cannot hold; use .*m\.csv"):
        apply_marks(file, images, manifest=tmp_path / "m.parquet")
    picture(images / os.fsdecode(b"caf\xea.png"))
    with pytest.raises(InputError, match=r"row 2: .* may be .* or .*; rename one"):
        apply_marks(file, images)


NAMES = [
    "new\nline.png",
    'it\'s "quoted".png',
    " blank first.png",
    "a,b;c.png",
    "\u202egnp.exe.png",
    "🦉.png",
    "=1.png",
]


def test_hostile_names_come_through_every_output(tmp_path, marked, picture):
    root = tmp_path / "odd"
    for number, name in enumerate(NAMES):
        picture(root / name, number)
    file = marked(dict.fromkeys(NAMES[:-1], "=a") | {NAMES[-1]: "drop"}, root=root)
    done = apply_marks(
        file,
        manifest=tmp_path / "m.csv",
        links=tmp_path / "links",
        classes=tmp_path / "c",
        unlabeled="rest",
        how="copy",
        drop_list=tmp_path / "drop.csv",
    )
    assert len(done.images.kept) == len(NAMES) - 1
    for place in ("m.csv", "links", "links/manifest.csv", "c/manifest.csv"):
        source = sdclr.open_source(tmp_path / place)
        assert sorted(source.ids) == sorted(NAMES[:-1])
        assert all(source.image(index).shape == (6, 5, 3) for index in range(len(source)))
    with (tmp_path / "drop.csv").open(newline="") as rows:
        assert list(csv.DictReader(rows)) == [{"path": str(root / "=1.png"), "id": "'=1.png"}]  # no formula
    newline = marked({NAMES[0]: "drop"}, root=root)
    with pytest.raises(InputError, match=r"has a line break in its name.*use --drop-list .*drop\.csv"):
        apply_marks(newline, drop_list=tmp_path / "drop.txt")


def test_ids_that_would_leave_the_folder_stay_in_it(tmp_path, images, tree):
    ids = ["../x.png", "../../x.png", "/etc/x.png", "..", "a/0", "A/0.png", "a/0.png/y.png"]
    rows = [Mark(id=image_id, path=str(images / "top.png"), label="cat/..") for image_id in ids]
    before = set(tree(tmp_path))
    apply_marks(Marks(tuple(rows)), links=tmp_path / "out" / "links", classes=tmp_path / "out" / "c")
    new = set(tree(tmp_path)) - before
    assert {path for path in new if not path.startswith(f"{tmp_path}/out/")} == {str(tmp_path / "out")}
    assert sum(path.endswith(".png") and Path(path).is_symlink() for path in new) == 2 * len(ids)


def table(path, images, label=None):
    rows = [None if file is None else {"bytes": file.read_bytes(), "path": "x"} for file in images]
    columns = {"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    pq.write_table(pa.table(columns | ({} if label is None else {"label": label})), path)


def test_rows_of_a_table_become_the_files_they_are(tmp_path, images):
    files = [images / "a/0.png", images / "a/1.png", None, images / "top.png"]
    table(tmp_path / "train.parquet", files, ["cat", "dog", "cat", None])
    marks = Marks((Mark(id="train/00000", mark="drop"), Mark(id="train/00003", label="owl")))
    out = {"classes": tmp_path / "c", "links": tmp_path / "l", "manifest": tmp_path / "m.csv"}
    done = apply_marks(marks, tmp_path / "train.parquet", **out, drop_list=tmp_path / "drop.txt")
    assert (tmp_path / "c" / "owl" / "train" / "00003.png").read_bytes() == files[3].read_bytes()
    assert (tmp_path / "l" / "train" / "00001.png").read_bytes() == files[1].read_bytes()
    assert labels_of(sdclr.open_source(tmp_path / "m.csv")) == {"train/00001": "dog", "train/00003": "owl"}
    assert (tmp_path / "drop.txt").read_text() == "train/00000\n"
    assert [(one.id, reason) for one, reason in done.unreadable] == [("train/00002", "zero bytes")]
    again = apply_marks(marks, tmp_path / "train.parquet", **out)
    assert len(again.unreadable) == 1
    with pytest.raises(InputError, match=r"add --links FOLDER, which writes them as files"):
        apply_marks(marks, tmp_path / "train.parquet", manifest=tmp_path / "m.csv")
    with pytest.raises(InputError, match=r"'train/00000' has no path; name the images too: sdclr apply MARKS IMAGES"):
        apply_marks(Marks((Mark(id="train/00000", mark="keep"),)), manifest=tmp_path / "m.csv")


def test_pixels_in_memory_become_png(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    source = ArraySource(pixels, ids=["x", "y", "z"])
    apply_marks(Marks((Mark(id="y", label="cat"),)), source, classes=tmp_path / "c")
    written = sdclr.open_source(tmp_path / "c")
    assert list(written.ids) == ["cat/y.png"]
    np.testing.assert_array_equal(written.image(0), pixels[1])


def test_cifar_from_parquet(tmp_path, cifar10_dir):
    source = sdclr.open_source(cifar10_dir, split="test")
    marks = Marks(
        (Mark(id=source.ids[7], label="strange"), Mark(id=source.ids[9999]), Mark(id=source.ids[3], mark="drop"))
    )
    done = apply_marks(marks, source, classes=tmp_path / "c", only_marked=True)
    assert done.images.silent == 1
    np.testing.assert_array_equal(sdclr.open_source(tmp_path / "c").image(0), source.image(7))


def test_a_dry_run_checks_and_writes_nothing(tmp_path, images, marked, tree):
    file = marked(SAID)
    before = tree(tmp_path)
    outputs = {"manifest": "m.csv", "links": "l", "classes": "c", "drop_list": "d", "move_dropped": "moved"}
    done = apply_marks(file, images, **{name: tmp_path / path for name, path in outputs.items()}, dry_run=True)
    assert done.folders == {"cat": "cat", "dog": "dog"}
    assert done.written == {}
    apply_marks(file)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "case",
    [
        ({"manifest": "m.txt"}, "give a .csv or .parquet file"),
        ({"manifest": "marks.csv"}, "is an input file"),
        ({"drop_list": "images/top.png"}, "is the image 'top.png'"),
        ({"drop_list": "alias.png"}, "is the image 'top.png'"),
        ({"drop_list": "full"}, "is a folder; give a file name"),
        ({"links": "images/new"}, "is inside"),
        ({"links": "images"}, "is inside"),
        ({"move_dropped": "images/dropped"}, "is inside"),
        ({"links": "full"}, "is not empty"),
        ({"move_dropped": "full"}, "is not empty"),
        ({"classes": "marks.csv"}, "is an input file"),
        ({"classes": "full/x.txt"}, "not a folder"),
        ({"links": "x", "classes": "x"}, "a separate path"),
        ({"links": "x", "manifest": "x/m.csv"}, "a separate path"),
        ({"classes": "x", "unlabeled": "CAT"}, "is a label too"),
        ({"classes": "x", "unlabeled": " "}, "not a valid folder name"),
        ({"classes": "x", "unlabeled": "../x"}, "not a valid folder name"),
        ({"unlabeled": "x"}, "add --classes FOLDER"),
    ],
)
def test_outputs_that_would_do_harm_are_refused(tmp_path, images, marked, case, tree):
    outputs, words = case
    file = marked(SAID)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").write_text("mine")
    (tmp_path / "alias.png").hardlink_to(images / "top.png")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=words) as error:
        apply_marks(
            file, images, **{name: path if name == "unlabeled" else tmp_path / path for name, path in outputs.items()}
        )
    assert "\n" not in str(error.value)
    assert tree(tmp_path) == before


def test_a_hidden_folder_among_the_images_is_no_part_of_them(images, marked):
    apply_marks(marked(SAID), images, links=images / ".kept")
    assert len(sdclr.open_source(images)) == 6
    noted = apply_marks(marked(SAID), links=images / "kept")
    assert "its files are found twice" in noted.notes[0]


def test_nothing_to_keep_or_to_label_is_said(tmp_path, images, marked):
    file = marked({"a/0.png": "drop"})
    for outputs, words in (({"manifest": "m.csv"}, "no image is kept"), ({"links": "l"}, "no image is kept")):
        with pytest.raises(InputError, match=words):
            apply_marks(file, **{name: tmp_path / path for name, path in outputs.items()})
    with pytest.raises(InputError, match="no image that is kept has a label"):
        apply_marks(file, images, classes=tmp_path / "c")


def test_a_file_that_is_dropped_and_kept_is_an_error(images):
    path = str(images / "top.png")
    marks = Marks((Mark(id="a", path=path, mark="drop", where="m.csv, row 2"), Mark(id="b", path=path, mark="keep")))
    with pytest.raises(InputError, match=r"m.csv, row 2: 'a' is dropped, but 'b', which is not, is the same file"):
        apply_marks(marks)


def test_labels_that_may_be_one_are_told(marked):
    done = apply_marks(marked({"a/0.png": "=Cat", "a/1.png": "=cat", "b/0.png": "=dog"}))
    assert done.notes == ["Labels that differ only in case, and may be the same: Cat, cat."]


@pytest.mark.parametrize(("how", "call"), [("symlink", "symlink"), ("hardlink", "link")])
def test_a_disk_without_links_gets_the_remedy(tmp_path, marked, monkeypatch, how, call):
    for code, words in ((errno.EPERM, "cannot be created there .* use --copy"), (errno.ENOSPC, "cannot be written")):

        def refuse(*_, code=code, **__):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(InputError, match=words):
                apply_marks(marked(SAID), links=tmp_path / "l", how=how)
    if how == "hardlink":

        def far(*_, **__):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", far)
        with pytest.raises(InputError, match=r"another disk .* use --copy"):
            apply_marks(marked(SAID), links=tmp_path / "l", how=how)


def test_copies_need_no_links_on_the_disk(tmp_path, marked, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    apply_marks(marked(SAID), links=tmp_path / "l", how="copy")
    assert len(sdclr.open_source(tmp_path / "l")) == 3


def test_another_file_in_the_place_of_an_image_stays(tmp_path, marked):
    apply_marks(marked(SAID), links=tmp_path / "l", how="copy")
    (tmp_path / "l" / "a" / "1.png").write_bytes(b"mine now")
    with pytest.raises(InputError, match=r"l/a/1.png: exists with other contents"):
        apply_marks(marked(SAID), links=tmp_path / "l", how="copy")
    assert (tmp_path / "l" / "a" / "1.png").read_bytes() == b"mine now"


def test_a_link_in_our_folder_is_no_way_out(tmp_path, marked):
    apply_marks(marked(SAID), classes=tmp_path / "c")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "c" / "owl").symlink_to(outside)
    with pytest.raises(InputError, match="contains 'owl'"):
        apply_marks(marked(SAID | {"b/3.png": "=owl"}), classes=tmp_path / "c")
    assert not any(outside.iterdir())
