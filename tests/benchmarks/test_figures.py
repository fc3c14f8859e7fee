"""Every figure of the results is drawn again from the data beside it, and follows that data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
FROM_ENCODERS = {"figure5.svg"}


@pytest.mark.slow
def test_every_figure_is_drawn_from_committed_data(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "figures.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, cwd=ROOT, timeout=300)
    drawn = {file.name for file in tmp_path.iterdir()}
    assert drawn == {file.name for file in RESULTS.glob("*.svg")} - FROM_ENCODERS
    assert all("<svg" in file.read_text() for file in tmp_path.iterdir())


@pytest.mark.slow
def test_a_figure_follows_its_data(tmp_path: Path) -> None:
    data, before, after = (tmp_path / name for name in ("data", "before", "after"))
    data.mkdir()
    for file in (*RESULTS.glob("*.csv"), *RESULTS.glob("*.json"), *RESULTS.glob("*.jsonl")):
        shutil.copy(file, data)
    call = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import figures; from pathlib import Path; "
    draw = [sys.executable, "-c", call + "figures.draw_all(Path(sys.argv[1]), Path(sys.argv[2]))", str(data)]
    subprocess.run([*draw, str(before)], check=True, timeout=300)
    found = json.loads((data / "cifar10_lt.json").read_text())
    for result in found["results"]["simclr"]:
        result["linear"]["balance"]["few"] += 20
    (data / "cifar10_lt.json").write_text(json.dumps(found))
    lines = (data / "figure3.csv").read_text().splitlines()
    (data / "figure3.csv").write_text("\n".join([lines[0], lines[1].replace("51.8", "71.8"), *lines[2:]]) + "\n")
    subprocess.run([*draw, str(after)], check=True, timeout=300)
    changed = {file.name for file in before.iterdir() if file.read_bytes() != (after / file.name).read_bytes()}
    assert changed == {"cifar10_lt_linear.svg", "figure3.svg"}
