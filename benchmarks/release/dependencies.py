"""List the package's dependencies and their licenses, from the metadata of installed packages.

    python benchmarks/release/dependencies.py

Writes docs/dependencies.md. Licenses are as the packages state them; a person has to judge them.
"""

import argparse
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "dependencies.md"
SIZES: Final = "## Installed size"
"""The page's last section, which benchmarks/release/installed_size.py writes; it is kept."""

OURS: Final = {"dev", "docs"}
"""Extras for working on the package, which users do not install."""

_COPYLEFT: Final = re.compile(
    r"\bA?GPL|\bLGPL|General Public License|\bMPL\b|Mozilla Public|EUPL|CDDL|SSPL|CC-BY-SA", re.IGNORECASE
)
_PROPRIETARY: Final = re.compile("proprietary", re.IGNORECASE)
_LICENSE_FILE: Final = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|.*3RD-PARTY)", re.IGNORECASE)
_TEXTS: Final = {
    "AGPL": re.compile(r"GNU AFFERO GENERAL PUBLIC LICENSE VERSION \d"),
    "LGPL": re.compile(r"GNU LESSER GENERAL PUBLIC LICENSE VERSION \d"),
    "GPL": re.compile(r"GNU GENERAL PUBLIC LICENSE VERSION \d"),
    "MPL": re.compile(r"MOZILLA PUBLIC LICENSE VERSION \d"),
}
"""Beginnings of license texts, without line breaks and in capitals. Texts of one license also mention others."""
_LONGEST: Final = 60
"""Maximum length of a license that is a name; longer ones are texts."""


class Package(NamedTuple):
    """A required package."""

    name: str
    version: str
    license: str
    texts: str
    """Copyleft licenses whose texts are in the package."""
    why: tuple[str, ...]
    """Parts of pyproject.toml that list it, or the packages that require it."""


def named(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, tuple[str, ...]]:
    """The packages in pyproject.toml, with the parts that list them; the package itself is left out."""
    project = tomllib.loads(pyproject.read_text())["project"]
    parts: Mapping[str, list[str]] = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for part, lines in parts.items():
        for line in lines:
            requirement = Requirement(line)
            if requirement.name != project["name"]:
                found.setdefault(canonicalize_name(requirement.name), []).append(part or "install")
    return {name: tuple(where) for name, where in sorted(found.items())}


def license_of(about: Distribution) -> str:
    """The license in a package's metadata: the expression, otherwise the classifiers, otherwise the field."""
    fields = about.metadata
    if expression := fields.get("License-Expression"):
        return str(expression)
    classifiers = [
        line.rpartition(" :: ")[2] for line in fields.get_all("Classifier") or () if line.startswith("License ::")
    ]
    classifiers = [line for line in classifiers if line != "OSI Approved"]
    if classifiers:
        return " and ".join(sorted(set(classifiers)))
    text = " ".join((fields.get("License") or "").split())
    if text in {"", "UNKNOWN"}:
        return "not stated"
    return text if len(text) <= _LONGEST else "stated as a text only"


def texts_of(about: Distribution) -> str:
    """Copyleft licenses whose texts are in a package, for libraries in its wheel or for itself."""
    texts = [
        Path(str(file.locate())).read_text(errors="replace").upper()
        for file in about.files or ()
        if _LICENSE_FILE.match(file.name) and Path(str(file.locate())).is_file()
    ]
    return ", ".join(
        name for name, words in _TEXTS.items() if any(words.search(" ".join(text.split())) for text in texts)
    )


def needed(names: Iterable[str]) -> dict[str, set[str]]:
    """Direct and indirect requirements of packages on this machine, each with the packages that require it."""
    found: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(name, "") for name in names]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            inner = canonicalize_name(requirement.name)
            queue += [(inner, part) for part in ("", *requirement.extras)]
            found.setdefault(inner, set()).add(name)
    return found


def packages(names: Mapping[str, Iterable[str]]) -> list[Package]:
    """The installed packages, sorted by name."""
    found = []
    for name, why in sorted(names.items()):
        try:
            about = distribution(name)
        except PackageNotFoundError:
            continue
        found.append(Package(name, about.version, license_of(about), texts_of(about), tuple(sorted(why))))
    return found


def is_copyleft(text: str) -> bool:
    """Whether a license requires the same license for derived works or changes."""
    return _COPYLEFT.search(text) is not None


def page() -> str:
    """The page as Markdown."""
    direct = named()
    installed = [name for name, parts in direct.items() if not OURS.issuperset(parts)]
    deeper = {name: why for name, why in needed(installed).items() if name not in direct}
    lines = [
        "# Dependencies and their licenses",
        "",
        "`python benchmarks/release/dependencies.py` makes this page from the metadata of installed packages",
        "(Python 3.11, Linux). Licenses are as the packages state them; this is no legal advice. **Copyleft** marks",
        "licenses that set terms for changes or derived works. *Texts inside* names copyleft licenses whose",
        "texts are in a package, mostly for libraries in its wheel. `sdclr` ships none of these packages.",
        "",
        "## Named in pyproject.toml",
        "",
        "Every user gets `install`; the other parts are extras. `dev` and `docs` are for work on the package.",
        "",
        *_table(packages(direct), "part"),
        "",
        "## Indirect dependencies",
        "",
        *_table(packages(deeper), "by"),
    ]
    return "\n".join(lines) + "\n"


def _table(found: Iterable[Package], why: str) -> list[str]:
    rows = [f"| package | version | license | texts inside | {why} |", "|---|---|---|---|---|"]
    for one in found:
        said = one.license.replace("|", "\\|")
        kind = "Copyleft" if is_copyleft(said) else "Proprietary" if _PROPRIETARY.search(said) else None
        stressed = said if kind is None else f"**{kind}**: {said}"
        rows.append(f"| {one.name} | {one.version} | {stressed} | {one.texts} | {', '.join(one.why)} |")
    return rows


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    _, heading, sizes = PAGE.read_text().partition(f"\n{SIZES}")
    PAGE.write_text(page() + heading + sizes)
    print(PAGE)


if __name__ == "__main__":
    main()
