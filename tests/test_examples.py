"""What users copy runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# What each example is called with (here {folder} is an empty one), and a word that it must print.
EXAMPLES = {
    "contact_sheet.py": (["digits", "--out", "{folder}/sheet.png"], ""),
    "from_a_folder.py": ([], "200 embeddings"),
    "own_framework.py": ([], "self-damaging: 72.6 % of digits named before training, 9"),
    "own_loop.py": ([], "% pruned"),
    "rare_images.py": ([], "to label next"),
}


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path):
    arguments, word = EXAMPLES[name]
    command = [sys.executable, ROOT / "examples" / name, *(part.format(folder=tmp_path) for part in arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout
