"""Elements of a page: names that any file system and page bears, and files beside the page."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sdclr.errors import InputError
from sdclr.reporting.elements import Elements


def figure() -> Figure:
    drawn = Figure(figsize=(1, 1))
    drawn.add_subplot().plot([0, 1], label="a")
    return drawn


def test_figures_go_to_the_page_and_to_the_folder(tmp_path: Path) -> None:
    elements = Elements(tmp_path / "deep" / "figures")
    plot = elements.plot(figure(), "curves", "Caption.", "Label")
    elements.save(Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)), "sheet")
    assert plot.svg.startswith("<svg")
    assert (plot.caption, plot.label) == ("Caption.", "Label")
    assert sorted(path.name for path in (tmp_path / "deep" / "figures").iterdir()) == [
        "curves.png",
        "curves.svg",
        "sheet.png",
    ]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elements = Elements()
    elements.plot(figure(), "curves", "", "")
    elements.save(Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)), "sheet")
    assert list(tmp_path.iterdir()) == []


def test_names_are_safe_and_told_apart_even_where_case_is_not(tmp_path: Path) -> None:
    elements = Elements(tmp_path)
    names = ["../../x", 'a b"<c>', "A/b/c", "", "…"]
    plots = [elements.plot(figure(), name, "", "") for name in names]
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == sorted(["x", "a-b-c", "A-b-c-2", "plot", "plot-2"])
    for plot in plots:
        ids = re.findall(r' id="([^"]*)"', plot.svg)
        assert ids
        assert all(re.fullmatch(r"[\w.-]+", value) for value in ids)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="give the figures a folder"):
        Elements(file)
