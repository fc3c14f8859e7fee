"""`sdclr apply` as a user types it."""

import os
from pathlib import Path

import pytest

import sdclr
from sdclr.cli import main

SAID = {"a/0.png": "drop", "a/1.png": "=cat", "b/0.png": "keep=dog", "b/3.png": "keep", "top.png": ""}


def failing(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_without_an_output_it_says_what_it_would_do(tmp_path, images, marked, tree, capsys):
    file = str(marked(SAID | {"gone\n\u202e.png": "keep"}))
    before = tree(tmp_path)
    main(["apply", file])
    said = capsys.readouterr().out
    for words in (
        "6 images: 3 keep, 1 drop, 2 with a label",
        "rows without mark and label: 1",
        "labels:  cat 1, dog 1",
        "kept:    3 marked images; 1 dropped",
        "missing: 1 (no such file; if the images have moved",
        r"gone\u000a\u202e.png",
        "Nothing is written. Add --manifest FILE",
    ):
        assert words in said
    main(["apply", file, str(images)])
    said = capsys.readouterr().out
    assert "kept:    5 images of images; 1 dropped" in said
    assert "unknown: 1 (marked, but not in images)" in said
    main(["apply", file, str(images), "--manifest", str(tmp_path / "m.csv"), "--dry-run"])
    assert "This was a dry run: nothing is written." in capsys.readouterr().out
    assert tree(tmp_path) == before


def test_files_that_are_not_there_are_listed(marked, capsys):
    main(["apply", str(marked({f"gone{number:02}.png": "drop" for number in range(12)}, root=Path("/nowhere")))])
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("missing: 12"))
    assert [line.strip() for line in lines[start + 1 : start + 12]] == [
        *(f"/nowhere/gone{number:02}.png" for number in range(10)),
        "and 2 more",
    ]


def test_every_output_at_once_and_back(tmp_path, images, marked, tree, capsys):
    file, before = str(marked(SAID)), tree(images)
    more = tmp_path / "more.csv"
    more.write_text("id;label\ntop.png;x/y\n")
    main(
        [
            *("apply", file, str(images), "--also", str(more), "--manifest", str(tmp_path / "kept.csv")),
            *("--links", str(tmp_path / "links"), "--classes", str(tmp_path / "classes"), "--copy"),
            *("--drop-list", str(tmp_path / "drop.txt"), "--move-dropped", str(tmp_path / "dropped")),
        ]
    )
    said = capsys.readouterr().out
    assert f"links:     {tmp_path / 'links'}" in said
    assert "labels with folders of another name, listed in classes.csv there: 1" in said
    assert "kept images without a label, in no class folder: 2" in said
    assert "moved:     1 of 1 dropped to" in said
    assert len(sdclr.open_source(tmp_path / "kept.csv")) == 5
    assert sdclr.open_source(tmp_path / "classes").classes == ("cat", "dog", "x_y")
    assert (tmp_path / "drop.txt").read_text() == f"{images / 'a/0.png'}\n"
    main(["apply", "--undo", str(tmp_path / "dropped" / "moved.csv")])
    assert "moved back: 1; in their old place already: 0" in capsys.readouterr().out
    assert tree(images) == before


def test_a_single_class_is_explained(tmp_path, images, marked, capsys):
    main(["apply", str(marked({"a/1.png": "=cat"})), "--classes", str(tmp_path / "c"), "--hard-links"])
    assert "open its manifest.csv" in capsys.readouterr().out
    assert (tmp_path / "c" / "cat" / "a" / "1.png").samefile(images / "a" / "1.png")


def test_names_that_are_not_utf8_can_be_told(images, marked, picture, capsys):
    picture(images / os.fsdecode(b"caf\xe9.png"))
    main(["apply", str(marked({os.fsdecode(b"gone\xe9.png"): "drop", "top.png": "keep"}))])
    assert r"gone\udce9.png" in capsys.readouterr().out


def test_errors_are_one_line_with_the_mend(tmp_path, marked, capsys):
    assert "--undo" in failing(["apply"], capsys)
    file = str(marked(SAID))
    assert "--undo" in failing(["apply", file, "--undo", file], capsys)
    assert "give one of them" in failing(["apply", file, "--copy", "--hard-links"], capsys)
    assert "existing path" in failing(["apply", file, str(tmp_path / "absent")], capsys)
    assert f"--also {file}" in failing(["apply", file, file], capsys)
    bad = tmp_path / "bad.csv"
    bad.write_text("id,mark\na,remove\n")
    assert "row 2: the mark is 'remove'" in failing(["apply", str(bad)], capsys)
    assert "contradict each other" in failing(
        ["apply", file, "--also", str(marked({"a/0.png": "keep"}, name="b.csv"))], capsys
    )
