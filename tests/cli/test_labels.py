"""Lists of labeled images that `sdclr select` reads."""

import pytest

from sdclr.cli.labels import labeled_ids
from sdclr.errors import InputError

TEXTS = {
    "a.png\nb c.png\n\n": ["a.png", "b c.png"],
    "id\nx\n": ["id", "x"],  # one column is a list of ids
    'order,id,score,percentile,kind\n1,a.png,0.9,99,1\n2,"b,c.png",0.8,98,0\n': ["a.png", "b,c.png"],
    "\ufeffpath,id,mark,label\r\n/x/a.png,a.png,keep,\r\n/x/b.png,b.png,,shoe\r\n": ["b.png"],
    "path,id,mark,label\n": [],
    "one, two.png\n": ["one, two.png"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_lists_and_tables(text, tmp_path):
    file = tmp_path / "ids"
    file.write_text(text, encoding="utf-8", newline="")
    assert labeled_ids([file]) == TEXTS[text]


def test_several_files_and_bytes_that_are_no_text(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"od\xe9.png\nb.png\n")
    second.write_text("id,label\nb.png,hat\nc.png,hat\n")
    assert labeled_ids([first, second]) == ["od\udce9.png", "b.png", "c.png"]
    assert labeled_ids([]) == []


@pytest.mark.parametrize(
    ("text", "ids"),
    [('x,"id,y",id\n1,2,a\n', ["a"]), ('"a,id,b"\nc\n', ['"a,id,b"', "c"]), ('"id",label\na,cat\nb,\n', ["a"])],
)
def test_headers_with_quotes_are_read_as_csv(tmp_path, text, ids):
    (tmp_path / "labels.csv").write_text(text)
    assert labeled_ids([tmp_path / "labels.csv"]) == ids


def test_cells_that_csv_cannot_hold_end_in_one_line(tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\n" + "x" * 200_000 + ",cat\n")
    with pytest.raises(InputError, match="is not a CSV table"):
        labeled_ids([tmp_path / "labels.csv"])
