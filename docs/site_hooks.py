"""What the site does beyond MkDocs: links that leave docs/, the list of results, and equations without a script."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#\s]+)(?:#[^)\s]*)?\)")
EQUATION = re.compile(r'<div class="arithmatex">\s*\\\[(?P<latex>.*?)\\\]\s*</div>', re.DOTALL)


def on_config(config: Any) -> Any:
    """List docs/results in the navigation, so that a new page there needs no entry of its own."""
    pages = sorted(path.name for path in (DOCS / "results").glob("*.md") if path.name != "README.md")
    for entry in config.nav:
        if "Results" in entry:
            entry["Results"] = [f"results/{name}" for name in ("README.md", *pages)]
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Send links to files of the repository outside docs/ to its address, or to nowhere if none is known.

    In the repository these links are relative, as its own viewer wants them. Links to files that do not exist stay as
    they are, so that the strict build refuses them.
    """
    folder = (DOCS / page.file.src_uri).parent

    def outside(found: re.Match[str]) -> str:
        path = (folder / found["target"]).resolve()
        if path.is_relative_to(DOCS) or not path.is_relative_to(ROOT) or not path.exists():
            return found[0]
        name = path.relative_to(ROOT).as_posix()
        if config.repo_url:
            return f"[{found['text']}]({config.repo_url.rstrip('/')}/blob/main/{name})"
        return found["text"] if name in found["text"] else f"{found['text']} (`{name}`)"

    return LINK.sub(outside, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn equations into MathML, which browsers draw by themselves."""
    return EQUATION.sub(lambda found: convert(html.unescape(found["latex"]).strip(), display="block"), content)
