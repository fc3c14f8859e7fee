"""What users copy runs as it stands."""

import json
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
    "onnx_without_torch.py": ([], "torch was not imported"),
    "own_framework.py": ([], "self-damaging: 72.6 % of digits named before training, 9"),
    "own_loop.py": ([], "% pruned"),
    "ray_embed.py": (["digits", "{folder}/embeddings", "--workers", "2"], "embeddings of 1297 images"),
    "rare_images.py": ([], "to label next"),
    "sklearn_pipeline.py": ([], "balanced accuracy: 0.9"),
}


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path):
    arguments, word = EXAMPLES[name]
    command = [sys.executable, ROOT / "examples" / name, *(part.format(folder=tmp_path) for part in arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


NOTEBOOK = ROOT / "examples" / "folder_to_classifier.ipynb"
# In a process of its own: Jupyter's packages warn of each other, and warnings are errors here.
RUN = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(book, timeout=1100, kernel_name="python3").execute()
for cell in book.cells:
    print(*(output.get("text", "") for output in cell.get("outputs", ())))
"""


def test_the_notebook_runs(tmp_path):
    pytest.importorskip("nbclient")
    env = os.environ | {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-c", RUN, NOTEBOOK]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    assert "215 images" in done.stdout
    assert "30 labels" in done.stdout
    assert "balanced accuracy on 185 images: 0.9" in done.stdout or "images: 1.000" in done.stdout
    assert (tmp_path / "mined" / "rarest.html").exists()


def test_the_notebook_is_kept_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
