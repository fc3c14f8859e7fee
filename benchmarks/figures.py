"""Draw every figure of docs/results from the committed data next to it, without training, in less than a minute.

    python benchmarks/figures.py --out docs/results        # or: make figures

Figure 5 of the paper is not included, because its heat maps need trained encoders: `sdclr reproduce figure5`.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any, Final, get_args

HERE: Final = Path(__file__).parent
DATA: Final = HERE.parent / "docs" / "results"
sys.path += [str(HERE / folder) for folder in ("evidence", "faults", "speed")]

import cifar10_lt  # noqa: E402
import forgetting_groups  # noqa: E402
import long_run  # noqa: E402
import soak  # noqa: E402
import speed_growth  # noqa: E402
from sdclr.paper.experiments import FigureName  # noqa: E402
from sdclr.paper.figures import draw_rows  # noqa: E402
from sdclr.paper.panels import read_rows  # noqa: E402
from sdclr.reporting.figures import save_figure  # noqa: E402


def draw_all(data: Path, out: Path) -> None:
    """Draw all figures into a folder.

    Args:
        data: The folder with the committed data.
        out: Folder for one SVG per figure.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in get_args(FigureName):
        if name != "figure5":
            save_figure(draw_rows(name, read_rows(data / f"{name}.csv")), out / name)
    cifar10_lt.draw(read_json(data / "cifar10_lt.json")["results"], out)
    forgetting_groups.draw(read_rows(data / "forgetting_groups.csv"), out)
    tables = read_json(data / "speed.json")["sections"]["growth"]["tables"]
    (points,) = (table["rows"] for table in tables if table["title"] == speed_growth.EACH_POINT)
    save_figure(speed_growth.Growth.from_points(points).figure(), out / "growth")
    with (data / "soak.csv").open(newline="") as file:
        samples = [soak.Sample(*map(float, row)) for row in list(csv.reader(file))[1:]]  # type: ignore[arg-type]
    soak.draw(samples, out / "soak.svg")
    if (data / "long_run.jsonl").exists():
        long_run.figure(data / "long_run.jsonl", out / "long_run.svg")
    for picture in out.glob("*.png"):  # the pages show the SVGs
        picture.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA)
    draw_all(DATA, parser.parse_args().out)


if __name__ == "__main__":
    main()
