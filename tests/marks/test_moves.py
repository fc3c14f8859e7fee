"""Dropped files are moved aside when asked, never over another file, and come back."""

import csv
import errno
import os
import shutil
from pathlib import Path

import pytest

from sdclr.errors import InputError, StorageError
from sdclr.marks import moves
from sdclr.marks.apply import apply_marks
from sdclr.marks.moves import undo_moves

DROPS = {"a/0.png": "drop", "b/deep/2.png": "drop", "top.png": "keep", "b/3.png": "=cat"}


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_moves_are_logged_and_undone(tmp_path, images, marked, tree):
    before = tree(images)
    done = apply_marks(marked(DROPS), images, move_dropped=tmp_path / "dropped")
    assert done.moved == 2
    assert below(tmp_path / "dropped") == ["a/0.png", "b/deep/2.png", "moved.csv"]
    assert below(images) == ["a/1.png", "b/0.png", "b/3.png", "top.png"]
    with (tmp_path / "dropped" / "moved.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"from": str(images / "a/0.png"), "to": "a/0.png", "id": "a/0.png"}
    shutil.move(tmp_path / "dropped", tmp_path / "attic")  # the log goes with its files
    undone = undo_moves(done.written["move_dropped"].parent.parent / "attic" / "moved.csv")
    assert len(undone.returned) == 2
    assert tree(images) == before
    again = undo_moves(tmp_path / "attic")
    assert (len(again.returned), len(again.there)) == (0, 2)


def test_marks_apply_again_after_their_files_have_moved(tmp_path, images, marked):
    file = marked(DROPS)
    apply_marks(file, images, move_dropped=tmp_path / "dropped")
    done = apply_marks(file, images, move_dropped=tmp_path / "dropped", manifest=tmp_path / "kept.csv")
    assert (done.moved, len(done.images.unknown), len(done.images.kept)) == (0, 2, 4)
    assert "move_dropped" not in done.written
    assert len(undo_moves(tmp_path / "dropped").returned) == 2


def test_a_folder_of_moved_files_takes_more_and_replaces_nothing(tmp_path, images, marked, picture, tree):
    apply_marks(marked(DROPS), move_dropped=tmp_path / "dropped")
    picture(images / "a/0.png", 99)  # another image of the same name
    before = tree(images)
    apply_marks(marked({"a/0.png": "drop", "a/1.png": "drop"}), move_dropped=tmp_path / "dropped")
    assert below(tmp_path / "dropped") == ["a/0-2.png", "a/0.png", "a/1.png", "b/deep/2.png", "moved.csv"]
    undone = undo_moves(tmp_path / "dropped")
    assert [path.name for path in undone.taken] == ["0.png"]  # the older of the two stays aside
    assert len(undone.returned) == 3
    assert {path: text for path, text in tree(images).items() if path in before} == before
    assert below(tmp_path / "dropped") == ["a/0.png", "moved.csv"]


def test_a_place_that_is_taken_stays_as_it_is(tmp_path, images, marked):
    apply_marks(marked(DROPS), move_dropped=tmp_path / "dropped")
    (images / "a" / "0.png").write_bytes(b"new")
    (tmp_path / "dropped" / "b" / "deep" / "2.png").unlink()
    undone = undo_moves(tmp_path / "dropped")
    assert (undone.returned, undone.there) == ([], [])
    assert undone.taken == [images / "a/0.png"]
    assert undone.missing == [images / "b/deep/2.png"]
    assert (images / "a" / "0.png").read_bytes() == b"new"
    assert (tmp_path / "dropped" / "a" / "0.png").is_file()


@pytest.mark.parametrize("moment", ["before", "between"])
def test_a_move_that_was_stopped_is_finished_or_undone(images, marked, monkeypatch, tree, moment):
    before, tmp_path = tree(images), images.parent
    put = moves.put

    def stopped(file, target):
        if file.name == "2.png":
            if moment == "between":
                os.link(file, target)
            raise KeyboardInterrupt
        put(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(moves, "put", stopped)
        with pytest.raises(KeyboardInterrupt):
            apply_marks(marked(DROPS), move_dropped=tmp_path / "dropped")
    assert (images / "b/deep/2.png").is_file()
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-copy"), copy_function=os.link)
    undone = undo_moves(copy / "dropped")  # its rows name the images in `tmp_path`, which are there but for one
    assert len(undone.returned) + len(undone.there) == 2
    assert tree(images) == before
    apply_marks(marked(DROPS), move_dropped=tmp_path / "dropped")
    assert below(images) == ["a/1.png", "b/0.png", "b/3.png", "top.png"]
    undo_moves(tmp_path / "dropped")
    assert tree(images) == before


def test_files_move_to_another_disk_whole(tmp_path, images, marked, monkeypatch, tree):
    before, link = tree(images), os.link

    def far(file, target, **options):
        if Path(file).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(file, target, **options)

    monkeypatch.setattr(os, "link", far)
    (images / "link.png").symlink_to("top.png")
    apply_marks(marked(DROPS | {"link.png": "drop"}), move_dropped=tmp_path / "dropped")
    assert below(tmp_path / "dropped") == ["a/0.png", "b/deep/2.png", "link.png", "moved.csv"]
    assert (tmp_path / "dropped" / "a" / "0.png").stat().st_nlink == 1
    undo_moves(tmp_path / "dropped")
    assert (images / "link.png").readlink() == Path("top.png")
    (images / "link.png").unlink()
    assert tree(images) == before


def test_a_disk_without_hard_links_moves_too(tmp_path, images, marked, monkeypatch, tree):
    before = tree(images)

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    apply_marks(marked(DROPS), move_dropped=tmp_path / "dropped")
    assert below(tmp_path / "dropped") == ["a/0.png", "b/deep/2.png", "moved.csv"]
    undo_moves(tmp_path / "dropped")
    assert tree(images) == before


def test_a_file_that_cannot_be_moved_is_named(tmp_path, images, marked, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"dropped/a/0.png cannot be written: the disk is full.*a/0.png is where it"):
        apply_marks(marked(DROPS), move_dropped=tmp_path / "dropped")
    assert len(below(images)) == 6


def test_one_file_under_two_ids_moves_once(tmp_path, images):
    text = f"path,id,mark\n{images / 'top.png'},x,drop\n{images / 'top.png'},y,drop\n"
    (tmp_path / "two.csv").write_text(text)
    assert apply_marks(tmp_path / "two.csv", move_dropped=tmp_path / "dropped").moved == 1
    assert below(tmp_path / "dropped") == ["moved.csv", "x.png"]


def test_what_is_no_file_cannot_be_moved(tmp_path, marked):
    with pytest.raises(InputError, match=r"row 2: 'digits/0001' is not an individual file.*--drop-list"):
        apply_marks(marked({"digits/0001": "drop"}, root=None), "digits", move_dropped=tmp_path / "dropped")
    assert not (tmp_path / "dropped").exists()


def test_nothing_dropped_makes_no_folder(tmp_path, marked):
    assert apply_marks(marked({"a/0.png": "keep"}), move_dropped=tmp_path / "dropped").moved == 0
    assert not (tmp_path / "dropped").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from,to\n/a,b\n", "begins with 'from, to'"),
        ("", "begins with ''"),
        ("from,to,id\n/a,b\n", "row 2 has 2 cells"),
        ("from,to,id\n/a,../b,x\n", "row 2: would move '../b' back to '/a'"),
        ("from,to,id\na,b,x\n", "row 2: would move 'b' back to 'a'"),
        ('from,to,id\n/a,"b\n', "cannot be read"),
    ],
)
def test_other_files_are_no_logs(tmp_path, text, words):
    (tmp_path / "moved.csv").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        undo_moves(tmp_path / "moved.csv")
    assert str(error.value).startswith(str(tmp_path / "moved.csv"))
    with pytest.raises(InputError, match="is missing"):
        undo_moves(tmp_path / "absent.csv")


def test_what_a_killed_call_left_is_no_obstacle(tmp_path, images, marked):
    for folder, name in (("dropped", ".moved.csv.tmp"), ("kept", "..sdclr-apply.json.tmp")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"half")
    apply_marks(marked(DROPS), images, move_dropped=tmp_path / "dropped", links=tmp_path / "kept", how="copy")
    assert below(tmp_path / "dropped") == ["a/0.png", "b/deep/2.png", "moved.csv"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("row", ["/a\0b,c.png,c", "/a.png,c\0.png,c"])
def test_a_log_with_a_nul_in_a_path_is_refused(tmp_path, row):
    (tmp_path / "moved.csv").write_text(f"from,to,id\n{row}\n")
    with pytest.raises(InputError, match=r"moved\.csv"):
        undo_moves(tmp_path)
