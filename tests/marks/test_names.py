"""Names of folders and files from labels and ids that hold anything."""

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr.data.sources import SPLIT_NAMES
from sdclr.marks.names import folder_names, relative_names


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"),
        ("big dog", "big dog"),
        ("naïve 日本 🦉", "naïve 日本 🦉"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("a/b", "a_b"),
        ("a\\b", "a_b"),
        ("..", "__"),
        (".", "_"),
        (".hidden", "_hidden"),
        ("end.", "end_"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("LPT1", "_LPT1"),
        ("console", "console"),
        ("a\0b\nc\td", "a_b_c_d"),
        ("abc\u202ecba\u2066", "abc_cba_"),
        ("\ufeffbom", "_bom"),
        ('<b>"x"|?*:', "_b__x_____"),
        ("=1+2", "=1+2"),
        ("-rf", "-rf"),
    ],
)
def test_a_label_becomes_a_folder_that_every_system_takes(label, name):
    assert folder_names([label]) == {label: name}


def test_long_labels_are_cut_and_stay_apart():
    labels = ["x" * 1000 + "1", "x" * 1000 + "2", "🦉" * 100]
    names = folder_names(labels)
    assert len(set(names.values())) == 3
    assert max(len(name.encode()) for name in names.values()) <= 200


def test_no_two_labels_share_a_folder():
    labels = ["a/b", "a_b", "a:b", "A_B", "Cat", "cat", "CAT", "é", "e\u0301", "straße", "STRASSE", "manifest.csv"]
    names = folder_names(labels, reserved=["manifest.csv"])
    keys = {unicodedata.normalize("NFC", name).casefold() for name in names.values()}
    assert len(keys) == len(labels)
    assert names["a_b"] != "a_b"  # A_B sorts before it, and is the same name on some systems
    assert names["A_B"] == "A_B"
    assert names["manifest.csv"] != "manifest.csv"
    assert folder_names(reversed(labels), reserved=["manifest.csv"]) == names


def test_folders_never_look_like_splits():
    assert folder_names(["train", "test"]) == {"test": "test_", "train": "train"}
    assert folder_names(["train", "boat"]) == {"boat": "boat", "train": "train"}
    assert not SPLIT_NAMES.issuperset(folder_names(["Train", "TEST", "val"]).values())


@pytest.mark.parametrize(
    ("image_id", "suffix", "path"),
    [
        ("a/b.png", "", "a/b.png"),
        ("a b/ c.JPG", ".png", "a b/ c.JPG"),
        ("train/00012", ".png", "train/00012.png"),
        ("../../etc/x.png", "", "_/_/etc/x.png"),
        ("/abs/x.png", "", "abs/x.png"),
        ("a//./x.png", "", "a/x.png"),
        (".hidden/.x.png", "", "_hidden/_x.png"),
        ("..", ".png", "_.png"),
        ("/", ".png", "_.png"),
        ("a\0.png", "", "a_.png"),
        ("new\nline \"q\" 'q'.png", "", "new\nline \"q\" 'q'.png"),
        ("caf\udce9.png", "", "caf\udce9.png"),
    ],
)
def test_an_id_keeps_its_path_unless_it_must_not(image_id, suffix, path):
    assert relative_names([image_id], [suffix]) == [path]


def test_paths_of_ids_never_collide():
    ids = ["a.png", "A.png", "./a.png", "x", "x.png", "a.png/b.png", "manifest.csv", "_/q.png", "../q.png"]
    names = relative_names(ids, [".png"] * len(ids), reserved=["manifest.csv"])
    assert names[0] == "a.png"
    assert len({name.casefold() for name in names}) == len(ids)
    folders = {above.as_posix() for name in names for above in PurePosixPath(name).parents}
    assert folders.isdisjoint(names)
    assert names == relative_names(ids, [".png"] * len(ids), reserved=["manifest.csv"])


PARTS = st.sampled_from(["a", "A", "b.png", "B.PNG", "..", ".", "", "x.png", "_", "\0", "é", "e\u0301", "y" * 300])
IDS = st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=6), max_size=8, unique=True)


@settings(max_examples=200, deadline=None)
@given(IDS)
def test_no_path_leaves_its_folder(ids):
    names = relative_names(ids, [".png"] * len(ids), reserved=["b.png"])
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in names} | {"b.png"}) == len(ids) + 1
    above = {parent.as_posix().casefold() for name in names for parent in PurePosixPath(name).parents}
    for name in names:
        parts = name.split("/")
        assert all(part and part not in (".", "..") and not part.startswith(".") for part in parts)
        assert all(len(part.encode("utf-8", "surrogateescape")) <= 255 and "\0" not in part for part in parts)
        assert name.casefold() not in above


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8).filter(str.strip), max_size=8, unique=True))
def test_every_label_has_a_folder_of_its_own(labels):
    names = folder_names(labels)
    assert list(names) == sorted(labels)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names.values()}) == len(labels)
    assert all("/" not in name and not name.startswith(".") and name.strip() for name in names.values())


def test_ids_of_very_many_folders_go_to_the_top():
    names = relative_names([("d" * 100 + "/") * 50 + f"{number}.png" for number in (1, 2)], ["", ""])
    assert all("/" not in name and name.endswith(".png") and len(name) < 256 for name in names)
    assert len(set(names)) == 2
