"""Measure the disk space of an installation: the package alone, and each extra.

    python benchmarks/release/installed_size.py

Installs into a new environment in a temporary folder, with the versions of constraints.txt, and writes the section
"Installed size" of docs/dependencies.md. Downloads some gigabytes.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from dependencies import PAGE, ROOT, SIZES

_MEGABYTE: Final = 1 << 20


def size(folder: Path) -> int:
    """Disk space of a folder in bytes, from `du`."""
    return (
        int(subprocess.run(["du", "-sk", folder], check=True, capture_output=True, text=True).stdout.split()[0]) << 10
    )


def pip(python: Path, *arguments: str) -> str:
    """Run pip in an environment, and return its output."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def added_by(python: Path, extra: str, scratch: Path) -> tuple[int, list[str]]:
    """Bytes and names of the packages that an extra adds to the environment."""
    constraints = ("--constraint", "constraints.txt")
    plan = json.loads(pip(python, "install", "--dry-run", "--report", "-", *constraints, f".[{extra}]"))
    wanted = [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in plan["install"]]
    wanted = [one for one in wanted if not one.startswith("sdclr==")]
    if not wanted:
        return 0, []
    target = scratch / extra
    pip(python, "install", "--no-deps", "--target", str(target), *wanted)
    bytes_ = size(target)
    shutil.rmtree(target)
    return bytes_, wanted


def section(scratch: Path) -> str:
    """The section as Markdown."""
    subprocess.run([sys.executable, "-m", "venv", scratch / "venv"], check=True)
    python = scratch / "venv" / "bin" / "python"
    packages = next((scratch / "venv" / "lib").glob("python*")) / "site-packages"
    empty = size(packages)
    pip(python, "install", "--constraint", "constraints.txt", ".")
    whole = size(packages) - empty
    torch = pip(python, "show", "--verbose", "torch")
    version = next(line.split()[1] for line in torch.splitlines() if line.startswith("Version:"))
    cuda = sum(size(folder) for name in ("nvidia", "triton") if (folder := packages / name).is_dir())
    rows = [f"| `pip install sdclr` | {whole // _MEGABYTE:,} | |"]
    if cuda:
        rows.append(f"| … of which CUDA libraries and Triton | {cuda // _MEGABYTE:,} | |")
    for extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]:
        bytes_, names = added_by(python, extra, scratch)
        rows.append(f"| `{extra}` adds | {max(1, bytes_ // _MEGABYTE):,} | {len(names)} |")
        print(rows[-1], flush=True)
    build = "a CUDA build, which is what the default package index has for Linux" if cuda else "a build for CPUs"
    lines = [
        SIZES,
        "",
        "Made by `python benchmarks/release/installed_size.py`: `du` of site-packages in a new environment (Linux,",
        f"Python {sys.version_info.major}.{sys.version_info.minor}), less pip and setuptools;",
        "versions of constraints.txt.",
        f"torch {version} is {build}.",
        "An extra adds the packages that a minimal installation lacks; packages that two extras share count in both.",
        "",
        "| installation | MB on disk | packages added |",
        "|---|---:|---:|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the section."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = section(Path(scratch))
    tables = PAGE.read_text().partition(f"\n{SIZES}")[0]
    PAGE.write_text(f"{tables}\n{text}")
    print(PAGE)


if __name__ == "__main__":
    main()
