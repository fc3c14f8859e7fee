"""Names with a carriage return stay one cell in every CSV file, and no name is a formula of a spreadsheet."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdclr.cli.labels import labeled_ids, write_choice
from sdclr.data.scan import read_bad_images, write_bad_images
from sdclr.data.sources import open_source
from sdclr.decoding.decode import BadImage
from sdclr.files.tables import guarded, read_csv, unguarded, write_csv
from sdclr.marks.table import read_marks
from sdclr.mining.select import Choice
from sdclr.mining.similar import Found, Row

NAME = "a\rb.png"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_of_neighbors(tmp_path):
    found = Found([Row(NAME, 1, "c.png", 0.5)], [])
    assert rows(found.write(tmp_path / "n.csv"))[0]["query"] == NAME


def test_of_what_to_label_next(tmp_path):
    one = np.zeros(1)
    scores = SimpleNamespace(ids=[NAME], rarity=one, percentile=one, kinds=one)
    write_choice(Choice(np.array([0]), [NAME], scores), tmp_path / "c.csv")
    assert rows(tmp_path / "c.csv")[0]["id"] == NAME


FORMULAS = [
    "=cmd|'/c calc'!A0.png",
    "+1+1.png",
    "-2+3.png",
    "@SUM(A1).png",
    "\t=1.png",
    "\r=1.png",
    "'=1.png",
    "''-x.png",
]


@given(st.text(alphabet="'=+-@\t\r1.ea,", max_size=6))
def test_the_guard_is_taken_away_again(text):
    cell = guarded(text)
    assert unguarded(cell) == text
    first = str(cell).lstrip("'")[:1]
    assert cell == text or str(cell).startswith("'")
    if first in set("=+-@\t\r") and not str(cell).startswith("'"):
        float(text)  # a number


@pytest.mark.parametrize("name", FORMULAS)
def test_no_name_is_a_formula_and_every_reader_finds_the_name_again(tmp_path, name):
    table = tmp_path / "t.csv"
    write_csv(table, ("id", "label"), [(name, "x")])
    assert rows(table)[0]["id"] == f"'{name}"
    assert read_csv(table, ("id", "label")) == [[name, "x"]]
    assert labeled_ids([table]) == [name]
    write_csv(table, ("path", "id", "mark", "label"), [("", name, "keep", "")])
    assert read_marks(table).rows[0].id == name
    write_bad_images(table, [BadImage(name, "-truncated", counted=True)])
    assert read_bad_images(table) == [(name, "-truncated")]


def test_a_manifest_of_such_names_is_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "=1+1.png")
    write_csv(tmp_path / "m.csv", ("path", "label"), [("=1+1.png", "-cat")])
    source = open_source(tmp_path / "m.csv")
    assert (list(source.ids), source.classes) == (["=1+1.png"], ("-cat",))
    assert source.image(0).shape == (8, 8, 3)
