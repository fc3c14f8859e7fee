"""Files of marks: the forms that are read, the errors, and a round trip without changes."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdclr.errors import InputError
from sdclr.marks.rows import Mark, Marks
from sdclr.marks.table import read_marks, write_marks

ROWS = [("/i/a.png", "a.png", "keep", ""), ("/i/b.png", "b.png", "drop", "cat"), ("/i/c.png", "c.png", "", "big dog")]
EXPECTED = tuple(Mark(path=path, id=image, mark=mark, label=label) for path, image, mark, label in ROWS)


def save(tmp_path, data, name="marks.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def joined(delimiter=",", end="\n", rows=(("path", "id", "mark", "label"), *ROWS)):
    return "".join(delimiter.join(row) + end for row in rows)


@pytest.mark.parametrize(
    "data",
    [
        joined(),
        joined(";", "\r\n"),
        joined("\t"),
        joined("|"),
        b"\xef\xbb\xbf" + joined(";", "\r\n").encode(),
        joined("\t", "\r\n").encode("utf-16"),
        "sep=;\r\n" + joined(";", "\r\n"),
        joined() + "\n,,,\n\n",
        joined(rows=[("Path", " ID ", "MARK", "Label"), *ROWS]),
        joined(rows=[("path", "id", "mark", "label"), *((p, i, m.upper(), f" {name} ") for p, i, m, name in ROWS)]),
        joined(rows=[("label", "note", "mark", "id", "path"), *((n, "x", m, i, p) for p, i, m, n in ROWS)]),
        joined(
            rows=[("filepath", "id", "drop", "mark", "label"), *((p, i, str(m == "drop"), m, n) for p, i, m, n in ROWS)]
        ),
        joined() + joined(rows=ROWS[1:]),
        joined(rows=[("path", "id", "label", "mark"), ("/i/a.png", "a.png", "", "keep")])
        + "/i/b.png,b.png,cat\n/i/b.png,b.png,,drop\n/i/c.png,c.png,big dog,,,\n",
    ],
    ids=lambda data: repr(data[:28]),
)
def test_what_spreadsheets_make_of_a_file_is_read(tmp_path, data):
    assert read_marks(save(tmp_path, data)).rows == EXPECTED


def test_the_page_of_choices_and_of_scores_may_get_a_column(tmp_path):
    text = "order,id,score,percentile,kind,label\n1,a.png,0.5,99,0,cat\n2,b.png,0.4,98,0,\n"
    marks = read_marks(save(tmp_path, text))
    assert [(row.id, row.path, row.mark, row.label) for row in marks.rows] == [
        ("a.png", "", "", "cat"),
        ("b.png", "", "", ""),
    ]
    drops = read_marks(save(tmp_path, "id,drop\na,1\nb,0\nc,\nd,X\ne,FALSE\n"))
    assert [row.mark for row in drops.rows] == ["drop", "", "", "drop", ""]


def test_the_table_of_near_duplicates_drops_the_first_of_each_pair(tmp_path):
    text = 'drop,keep,similarity,how,drop_path,keep_path\nb,a,0.9,mirrored,/i/b,/i/a\n"c;d",a,0.8,resized,/i/c,/i/a\n'
    assert read_marks(save(tmp_path, text)).rows == (
        Mark(id="b", path="/i/b", mark="drop"),
        Mark(id="c;d", path="/i/c", mark="drop"),
    )


def test_relative_paths_start_from_the_file(tmp_path):
    marks = read_marks(save(tmp_path, "file,mark\nsub/../a.png,drop\n"))
    assert marks.rows == (Mark(path=str(tmp_path / "a.png"), mark="drop"),)


def test_several_files_are_one(tmp_path):
    first = save(tmp_path, joined(), "a.csv")
    second = save(tmp_path, "id,label\na.png,owl\nnew.png,owl\n", "b.csv")
    marks = read_marks(first, second)
    assert [row.name for row in marks.rows] == ["a.png", "b.png", "c.png", "new.png"]
    assert marks.rows[0] == Mark(path="/i/a.png", id="a.png", mark="keep", label="owl")
    assert dict(marks.labels()) == {"owl": 2, "big dog": 1, "cat": 1}
    assert list(marks.labels()) == ["owl", "big dog", "cat"]
    assert (marks.count("keep"), marks.count("drop"), marks.count("")) == (1, 1, 2)


def test_a_row_that_only_has_a_path_is_the_row_of_its_id(tmp_path):
    first = save(tmp_path, "path,mark\n/i/a.png,drop\n/i/z.png,keep\n", "a.csv")
    second = save(tmp_path, "path,id,label\n/i/a.png,a.png,owl\n", "b.csv")
    assert set(read_marks(first, second).rows) == {
        Mark(path="/i/a.png", id="a.png", mark="drop", label="owl"),
        Mark(path="/i/z.png", mark="keep"),
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["is empty", "mark images"]),
        (b"\xef\xbb\xbf\r\n \n", ["is empty"]),
        (b"id,mark\n", ["no rows below its header"]),
        (b"id,mark\n,\n,\n", ["no rows below its header"]),
        (b"name,mark\na,drop\n", ["has the columns name, mark", "`id`"]),
        (b"id,score\na,1\n", ["has the columns id, score", "`mark`"]),
        (b"id,mark,Mark\na,drop,\n", ["2 columns named `mark`"]),
        (b"id,mark\na,keep\nb,delete\n", ["marks.csv, row 3", "'delete'", "keep, drop"]),
        (b"id,drop\na,perhaps\n", ["row 2", "'perhaps'", "give 1"]),
        (b"id,mark,drop\na,keep,1\n", ["row 2", "marked keep", "clear one"]),
        (b"id,mark\na,keep\nb,keep\na,drop\n", ["row 2 and", "row 4 contradict", "'a'", "'keep'", "'drop'"]),
        (b"id,label\na,cat\na,dog\n", ["row 2 and", "row 3 contradict", "label 'cat' and 'dog'"]),
        (b"id,mark\n,drop\n", ["row 2: names no image", "`id`"]),
        (b"id,label\na,big, red\n", ["row 2: has 3 cells for 2 columns", "quotes"]),
        (b'id,label\na,"open\nb,cat\n', ["is not a CSV table", "UTF-8"]),
        (b"id,label\na,m\xe4use\n", ["row 2", "label", "is not UTF-8", "save it as UTF-8"]),
        (b"\xff\xfea", ["is not UTF-16"]),
        (b"id,label\na," + b"x" * 200_000, ["is not a CSV table", "field limit"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, data, words):
    path = save(tmp_path, data)
    with pytest.raises(InputError) as error:
        read_marks(path)
    said = str(error.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    for word in words:
        assert word in said


def test_files_that_are_not_there(tmp_path):
    for path, word in ((tmp_path / "absent.csv", "there is no such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=word):
            read_marks(path)
    with pytest.raises(InputError, match="no file of marks"):
        read_marks()


def test_rows_are_checked_in_python_too():
    with pytest.raises(InputError, match="'remove'"):
        Mark(id="a", mark="remove")
    with pytest.raises(InputError, match="names no image"):
        Mark(mark="drop")
    with pytest.raises(InputError, match="is not UTF-8"):
        Mark(id="a", label="\udcff")
    with pytest.raises(InputError, match="is not UTF-8"):
        Mark(id="\ud812")


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    marks = Marks((Mark(id="caf\udce9.png", path="/i/caf\udce9.png", mark="drop"),))
    path = write_marks(tmp_path / "m.csv", marks)
    assert b"caf\xe9.png" in path.read_bytes()
    assert read_marks(path).rows == marks.rows
    assert os.fsencode(read_marks(path).rows[0].path) == b"/i/caf\xe9.png"


# All that a name or label may hold, and what CSV readers trip over.
TEXT = st.text(max_size=12) | st.text(alphabet=",;\"'\r\n\t|= \u202e\ufeff\0@-", max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_marks_are_read_as_they_were_written(tmp_path, data):
    ids = data.draw(st.lists(TEXT.filter(bool), min_size=1, max_size=5, unique=True))
    rows = []
    for number, image_id in enumerate(ids):
        path = data.draw(st.sampled_from(["", f"/photos/{number}", f'/photos/{number} \n"x";\'.png']))
        mark = data.draw(st.sampled_from(["keep", "drop", ""]))
        rows.append(Mark(id=image_id, path=path, mark=mark, label=data.draw(TEXT)))
    marks = Marks(tuple(rows))
    assert read_marks(write_marks(Path(tmp_path) / "m.csv", marks)).rows == marks.rows
