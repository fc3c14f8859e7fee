"""What each command loads: help and parsing nothing heavy, and a command that runs only what it needs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdclr.cli.catalog import CATALOG

LIGHT = {"tyro"}
"""What help and parsing may load. rich comes when a command runs."""
TABLES = {"cv2", "numpy", "pandas", "PIL", "pyarrow", "rich", "tyro"}
"""What reads and writes images and tables. Where pandas is installed, pyarrow loads it."""
GRAPHS = {"openTSNE", "scipy", "sklearn", "sknetwork"}
"""What the search for kinds, the map and the choice of images take."""
TIMM = {"timm", "torchvision", "huggingface_hub", "torch._dynamo", "torch.onnx", "sympy"}
"""timm, and what comes with it."""
WATCHED = LIGHT | TABLES | GRAPHS | TIMM | {"torch", "matplotlib", "jinja2", "faiss", "tensorboard", "onnx"}

PARSED = {
    "mine": "mine wds:IMAGES --k 5",
    "select": "select wds:IMAGES --budget 3",
    "apply": "apply marks.csv",
    "pack": "pack wds:IMAGES OUT",
    "diagnose": "diagnose wds:IMAGES --part 60",
    "duplicates": "duplicates wds:IMAGES",
    "neighbors": "neighbors wds:IMAGES --queries a.jpg",
    "demo": "demo --train",
    "finetune": "finetune --train A --test B --method ce",
    "embed": "embed wds:IMAGES --out e.parquet",
    "export": "export runs/a out",
    "evaluate": "evaluate --train A --test B --linear.epochs 3",
    "evaluate-attributes": "evaluate-attributes --train A --test B",
    "report": "report runs/a runs/b",
    "reproduce": "reproduce table4 --data D",
    "bench": "bench --data D --frameworks byol",
    "recipe": "recipe cifar_lt",
    "info": "info wds:IMAGES --no-measure",
}
"""A command line of each command. `pretrain` is not among them: its defaults depend on the images, which it opens."""

_WATCHER = """
import contextlib, io, json, os, sys
from sdclr.cli import main
watched, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])
loaded = {}
for kind, line in lines:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        if kind == "run":
            main(line.split())
        elif kind == "parse":
            import sdclr.cli.parsing
            sdclr.cli.parsing.parse(line.split())
        else:
            exec(line)
    loaded[line] = [name for name in watched if name in sys.modules]
print(json.dumps(loaded))
"""


def loaded_by(*lines: tuple[str, str], cwd: Path) -> dict[str, set[str]]:
    """Which of the watched modules are loaded after each of some lines, all in one process of its own."""
    command = [sys.executable, "-c", _WATCHER, json.dumps(sorted(WATCHED)), json.dumps(lines)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {line: set(names) for line, names in json.loads(done.stdout).items()}


def test_version_and_the_list_of_commands_load_nothing(tmp_path):
    loaded = loaded_by(("run", "--version"), ("run", "--help"), ("python", "import sdclr; dir(sdclr)"), cwd=tmp_path)
    assert set().union(*loaded.values()) == set()


def test_help_and_parsing_load_nothing_heavy(tmp_path):
    assert PARSED.keys() == CATALOG.keys() - {"pretrain"}
    helps = [("run", f"{name} {word}") for name in CATALOG for word in ("--help", "--help-all")]
    loaded = loaded_by(*helps, *[("parse", line) for line in PARSED.values()], cwd=tmp_path)
    for line, names in loaded.items():
        assert names <= LIGHT, line


def test_tables_need_no_torch(tmp_path):
    (tmp_path / "marks.csv").write_text("path,id,mark,label\n/x/a.png,a.png,keep,\n")
    loaded = loaded_by(("run", "recipe cifar_lt"), ("run", "apply marks.csv"), cwd=tmp_path)
    assert loaded["recipe cifar_lt"] <= LIGHT | {"rich"}
    assert loaded["apply marks.csv"] <= TABLES


@pytest.fixture
def embeddings(tmp_path):
    """72 vectors in two groups."""
    generator = np.random.default_rng(0)
    groups = [generator.normal(size=(60, 8)), generator.normal(size=(12, 8)) + 9]
    np.save(tmp_path / "e.npy", np.concatenate(groups).astype(np.float32))
    return tmp_path


def test_embeddings_take_torch_and_no_timm_and_no_matplotlib(embeddings):
    config = "import sdclr; sdclr.PretrainConfig(), sdclr.MineConfig(), sdclr.EvaluateConfig(), sdclr.FinetuneConfig()"
    method = "from sdclr import SelfCompetitor, nt_xent, SimCLR"
    near, mine = "neighbors e.npy --queries 03 --k 2", "mine e.npy --out m --no-page --device cpu"
    choose = "select e.npy --budget 5 --folder m --device cpu"
    lines = [("python", config), ("python", method), ("run", near), ("run", mine), ("run", choose)]
    loaded = loaded_by(*lines, cwd=embeddings)
    assert loaded[config] == set()
    assert loaded[method] <= {"torch", "numpy"}
    assert loaded[near] <= TABLES | {"torch"}  # not even scikit-learn
    assert loaded[mine] <= TABLES | GRAPHS | {"torch", "jinja2"}
    assert loaded[choose] <= TABLES | GRAPHS | {"torch", "jinja2"}
    assert (embeddings / "m" / "scores.parquet").is_file()
