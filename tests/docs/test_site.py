"""The documentation builds as a site without a warning, loads nothing from a network, and lists the public names."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra docs")
pytest.importorskip("latex2mathml", reason="needs the extra docs")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; broken links and anchors, missing pages and unknown names would end the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "SDCLR_REPOSITORY": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return out


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//"
    )
    canonical = re.compile(r'<link rel="(?:canonical|prev|next|edit)"[^>]*>')
    for page in pages:
        found = loads.search(canonical.sub("", page.read_text()))
        assert found is None, f"{page.name}: {found[0]}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?(?:https?:)?//", sheet.read_text()), sheet


def test_the_reference_has_every_public_name(site: Path) -> None:
    stub = ast.parse((ROOT / "src/sdclr/__init__.pyi").read_text())
    public = next(ast.literal_eval(line.value) for line in stub.body if isinstance(line, ast.Assign))
    text = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    listed = set(re.findall(r'id="sdclr\.(\w+)"', text))
    assert set(public) - {"__version__"} <= listed
    assert "Jiang et al., ICML 2021" in text  # docstrings, and not names alone


def test_equations_need_no_script(site: Path) -> None:
    text = (site / "method.html").read_text()
    assert text.count("<math") == (ROOT / "docs/method.md").read_text().count("$$") // 2 >= 5
    assert "arithmatex" not in text


def test_links_out_of_the_documentation_end_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import site_hooks

    class Page:
        class file:  # noqa: N801  # as MkDocs names it
            src_uri = "guides/extend.md"

    class Config:
        repo_url = "https://example.org/sdclr/"

    def rewritten(text: str) -> str:
        return site_hooks.on_page_markdown(text, page=Page, config=Config)

    link = "[an example](../../examples/own_loop.py)"
    assert rewritten(link) == "[an example](https://example.org/sdclr/blob/main/examples/own_loop.py)"
    assert rewritten("[method](../method.md)") == "[method](../method.md)"
    assert (
        rewritten("[gone](../../examples/gone.py)") == "[gone](../../examples/gone.py)"
    )  # the strict build refuses it
    Config.repo_url = ""
    assert rewritten(link) == "an example (`examples/own_loop.py`)"
