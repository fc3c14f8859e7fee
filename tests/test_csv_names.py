"""Names with a carriage return stay one cell in every CSV file."""

import csv
from types import SimpleNamespace

import numpy as np

from sdclr.cli.labels import write_choice
from sdclr.evaluation.neighbors import Found, Row
from sdclr.mining.choose import Choice

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
