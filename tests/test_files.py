"""Files appear whole or not at all."""

import csv
import io
import os
from pathlib import Path

import pytest

from sdclr.errors import InputError
from sdclr.files import csv_bytes, write_atomically, write_csv


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_only_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="name a file to write"):
            write_atomically(place, b"new")
    with pytest.raises(InputError, match=r"file/deep/x cannot be written: .*file.* is a file; name another place"):
        write_atomically(tmp_path / "file" / "deep" / "x", b"new")
    assert (tmp_path / "file").read_text() == "x"


def test_csv_keeps_every_name_and_writes_plain_line_ends(tmp_path: Path) -> None:
    rows = [["a,b", 'say "x"', "two\nlines"], ["back\rhere", " blank", None], ["caf\udce9", 1.5, ""]]
    write_csv(tmp_path / "a.csv", ["x", "y", "z"], rows)
    data = (tmp_path / "a.csv").read_bytes()
    assert data.startswith(b"x,y,z\n")
    assert b"caf\xe9" in data
    text = data.decode("utf-8", "surrogateescape")
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[1:] == [["" if cell is None else str(cell) for cell in row] for row in rows]
    assert csv_bytes([["a", 1]], quote_all=True) == b'"a","1"\n'
    with pytest.raises(InputError, match="holds half a character"):
        csv_bytes([["\ud812"]])
