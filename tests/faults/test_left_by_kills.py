"""What a kill leaves before the first file is in place, and that the same command then goes on."""

import pytest

from sdclr.cli import main


@pytest.fixture
def marked(tmp_path):
    """A file of marks, and one picture to drop."""
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    (tmp_path / "marks.csv").write_text("id,label,mark\na.jpg,rare,\nb.jpg,,drop\n")
    return tmp_path


@pytest.mark.parametrize(
    ("option", "left", "made"),
    [("--classes", "..sdclr-apply.json.tmp", "rare/a.jpg"), ("--move-dropped", ".moved.csv.tmp", "b.jpg")],
)
def test_a_folder_with_a_half_written_first_file_counts_as_empty(marked, option, left, made):
    out = marked / "out"
    out.mkdir()
    (out / left).write_text("hal")
    main(["apply", str(marked / "marks.csv"), str(marked / "images"), option, str(out), "--quiet"])
    assert (out / made).exists()
    assert not (out / left).exists()
