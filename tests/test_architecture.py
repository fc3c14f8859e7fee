"""Imports run one way, and `method` stands on torch alone."""

import ast
import sys
from pathlib import Path

import pytest

import sdclr

ROOT = Path(sdclr.__file__).parent
LAYERS = [
    {
        *("errors", "config", "environment", "files", "settings", "settings_lines", "version", "precision"),
        *("fastest", "progress", "progress_display", "progress_notebook", "choices", "time_budget"),
    },
    {"method", "data", "encoders"},
    {"features"},
    {"marks"},
    {"training"},
    {"evaluation"},
    {"downstream", "reporting"},
    {"mining"},
    {"recipes"},
    {"paper", "demo"},
    {"cli"},
    {"__main__"},
]
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
# Units of one level that may not know each other.
APART = [{"method", "data"}, {"method", "encoders"}, {"data", "encoders"}]
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def unit_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "sdclr"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    relative = path.relative_to(ROOT)
    unit = relative.parts[0].removesuffix(".py")
    assert unit in LEVEL, f"{unit} has no place in the order: give it one here and in docs/architecture.md"
    for module in imports(path):
        if not module.startswith("sdclr.") or unit_of(module) == unit:
            continue
        other = unit_of(module)
        assert LEVEL[other] <= LEVEL[unit], f"{relative} imports {module}, which stands above it"
        assert {unit, other} not in APART, f"{relative} imports {module}, beside it"


@pytest.mark.parametrize("path", sorted((ROOT / "method").rglob("*.py")), ids=lambda path: path.name)
def test_method_imports_torch_and_itself(path):
    for module in imports(path):
        top = module.split(".")[0]
        assert top in {"torch", "lazy_loader", *sys.stdlib_module_names} or module.startswith("sdclr.method"), module


def test_files_are_short():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_nothing_prints_outside_the_command_line():
    for path in MODULES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not prints or "cli" in path.parts, path
