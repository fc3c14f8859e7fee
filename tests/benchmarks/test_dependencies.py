"""The list of dependencies is in step with pyproject.toml."""

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="module")
def dependencies(_scripts_import_each_other: None) -> Any:
    return importlib.import_module("dependencies")


def test_the_page_lists_what_pyproject_names(dependencies: Any) -> None:
    text = dependencies.PAGE.read_text()
    _, _, tables = text.partition("## Named in pyproject.toml")
    rows = [line.strip("| ").split(" | ") for line in tables.partition("\n## ")[0].splitlines() if line[:2] == "| "]
    listed = {row[0]: tuple(sorted(row[-1].split(", "))) for row in rows[1:]}
    wanted = {name: tuple(sorted(parts)) for name, parts in dependencies.named().items()}
    assert listed == wanted, "run python benchmarks/release/dependencies.py"


def test_what_users_get_has_no_license_that_reaches_their_own_work(dependencies: Any) -> None:
    """MPL 2.0 asks for its terms on changes of its own files alone."""
    names = {name: parts for name, parts in dependencies.named().items() if not dependencies.OURS.issuperset(parts)}
    found = dependencies.packages(names | dependencies.needed(names))
    assert len(found) > 30
    strong = [one.name for one in found if dependencies.is_copyleft(one.license.replace("MPL-2.0", ""))]
    assert strong == []


@pytest.mark.parametrize(
    ("text", "copyleft"),
    [
        *(("GPL-3.0-only", True), ("GNU Lesser General Public License v3 (LGPLv3)", True), ("MPL-2.0 AND MIT", True)),
        *(("AGPL-3.0", True), ("MIT License", False), ("Apache-2.0", False), ("BSD-3-Clause AND Zlib", False)),
    ],
)
def test_copyleft_is_seen(dependencies: Any, text: str, *, copyleft: bool) -> None:
    assert dependencies.is_copyleft(text) is copyleft


def test_extras_that_requirements_ask_for_are_followed(dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"a": ["b[x]>=1", "c; extra == 'y'"], "b": ["d; extra == 'x'", "e"], "d": ["a"], "e": []}

    class Made:
        def __init__(self, name: str) -> None:
            self.requires = needs[name]

    monkeypatch.setattr(dependencies, "distribution", Made)
    assert dependencies.needed(["a"]) == {"b": {"a"}, "d": {"b"}, "e": {"b"}, "a": {"d"}}
