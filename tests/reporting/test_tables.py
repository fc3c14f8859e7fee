"""Tables: the figures in them, what is stressed, and how they are printed."""

import io
import json
import math
import re
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sdclr.errors import InputError
from sdclr.evaluation.balance import Balance
from sdclr.evaluation.evaluate import Result, Score
from sdclr.reporting.tables import Table, balance_table, balances

NAN = math.nan
SPLITS = [Balance(80, 70, 60, 71, 8.16), Balance(82, 71, 55, 70.5, 11.09), Balance(78, 75, 65, 73, 5.56)]
OTHER = [Balance(79, 72, 66, 73, 5.31), Balance(81, 70, 61, 71, 8.18)]


def cells(markdown: str) -> list[list[str]]:
    """The cells of a pipe table, read as a Markdown parser reads them: an escaped bar is no border."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_columns_are_those_of_the_paper_and_rows_the_methods() -> None:
    table = balance_table({"SimCLR": SPLITS, "SDCLR": OTHER})
    assert table.columns == ("Method", "Many", "Medium", "Few", "Std", "All")
    assert [row[0] for row in table.rows] == ["SimCLR", "SDCLR"]


def test_figures_are_mean_and_sample_deviation_over_splits() -> None:
    row = balance_table({"SimCLR": SPLITS}).rows[0]
    for cell, field in zip(row[1:], ("many", "medium", "few", "std", "all"), strict=True):
        values = [getattr(split, field) for split in SPLITS]
        assert cell == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def test_one_split_has_no_deviation_and_the_unknown_is_a_dash() -> None:
    table = balance_table({"kNN": [Balance(NAN, NAN, NAN, 61.234, NAN)]})
    assert table.rows == (("kNN", "\u2013", "\u2013", "\u2013", "\u2013", "61.23"),)
    assert "one split" in table.note
    assert "±" not in table.note


def test_best_is_the_highest_mean_but_the_lowest_std() -> None:
    table = balance_table({"SimCLR": SPLITS, "SDCLR": OTHER})
    best = {table.columns[x]: table.rows[y][0] for y, x in table.best}
    # Means: Many 80 and 80, a tie; Medium 72 and 71; Few 60 and 63.5; Std 8.27 and 6.745; All 71.5 and 72.
    assert {name: best[name] for name in ("Medium", "Few", "Std", "All")} == {
        "Medium": "SimCLR",
        "Few": "SDCLR",
        "Std": "SDCLR",
        "All": "SDCLR",
    }
    assert {(0, 1), (1, 1)} <= table.best, "equal as printed is equally good"
    assert "Bold marks the best mean" in table.note


def test_nothing_is_stressed_without_something_to_compare() -> None:
    alone = balance_table({"SimCLR": SPLITS})
    assert not alone.best
    assert "Bold" not in alone.note
    assert "**" not in alone.markdown().split("\n\n", 1)[1]
    half = balance_table({"a": [Balance(NAN, NAN, NAN, 50, NAN)], "b": [Balance(60, 50, 40, 50, 8)]})
    assert {x for _, x in half.best} == {5}


def test_note_tells_how_many_splits_went_in() -> None:
    assert "over 2 to 3 splits" in balance_table({"a": SPLITS, "b": OTHER}).note
    assert "over 3 splits" in balance_table({"a": SPLITS, "b": SPLITS}).note


def test_no_results_are_refused() -> None:
    with pytest.raises(InputError, match="no results"):
        balance_table({})
    with pytest.raises(InputError, match="no splits"):
        balance_table({"SimCLR": []})


def test_markdown_as_a_whole() -> None:
    table = Table("T", ("Method", "All"), (("a", "9.00"), ("b|c", "10.00")), "N.", frozenset({(1, 1)}))
    assert table.markdown() == (
        "**T**\n"
        "\n"
        "| Method |       All |\n"
        "| ------ | --------: |\n"
        "| a      |      9.00 |\n"
        "| b\\|c   | **10.00** |\n"
        "\n"
        "N.\n"
    )


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_markdown_keeps_its_shape_whatever_the_names(names: list[str]) -> None:
    table = Table("", ("Method", "All"), tuple((name, "1.00") for name in names))
    rows = cells(table.markdown())
    assert len(rows) == len(names) + 2
    assert all(len(row) == 2 for row in rows)
    assert all(row[1] == "1.00" for row in rows[2:])


def test_markdown_neutralises_markup() -> None:
    text = Table("", ("Method", "All"), (("<script>*[x]`", "1.00"),)).markdown()
    assert "\\<script>\\*\\[x]\\`" in text


def test_rich_shows_the_same_and_reads_no_markup() -> None:
    table = Table("Title", ("Method", "All"), (("[red]name[/red]", "9.00"), ("b", "10.00")), "Note.")
    buffer = io.StringIO()
    Console(file=buffer, width=60).print(table.rich())
    for part in ("Title", "Method", "[red]name[/red]", "9.00", "10.00", "Note."):
        assert part in buffer.getvalue()


def test_rows_must_fit_the_columns() -> None:
    with pytest.raises(InputError, match="2 cells for 3 columns"):
        Table("T", ("a", "b", "c"), (("1", "2"),))


def test_balances_come_from_results_and_equally_from_their_json() -> None:
    def score(shift: float) -> Score:
        return Score(Balance(80 + shift, NAN, 60, 70, 10), [80.0], {})

    result = Result(linear=score(0), few_shot=score(-5), knn=score(-9), description={"run": "r"})
    stored = json.loads(json.dumps(result.to_json()))
    assert stored["linear"]["balance"]["medium"] is None
    for name, many in (("linear", 80), ("few_shot", 75), ("knn", 71)):
        found = balances({"a": [result], "b": [stored]}, name)
        assert str(found["a"]) == str(found["b"])  # nan differs from itself, its text does not
        assert found["a"][0].many == many
        assert math.isnan(found["b"][0].medium)


@pytest.mark.parametrize("wrong", [{}, {"linear": {}}, {"linear": {"balance": {"many": 1.0}}}, {"linear": None}, 3])
def test_what_is_no_evaluation_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match=r"SDCLR is not an evaluation with a 'linear' score"):
        balances({"SDCLR": [wrong]})
