"""The page on reliability names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = re.compile(r"`((?:tests|benchmarks)/[\w/.]+)(?:::(\w+))?`")
NAMED = sorted(set(TESTS.findall((ROOT / "docs/reliability.md").read_text())))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_named_tests_exist(file: str, test: str) -> None:
    text = (ROOT / file).read_text()
    assert not test or f"def {test}(" in text
