"""Nothing that a file says runs, connects, or writes outside of the folders that were named."""

import ast
import hashlib
import importlib
import io
import os
import pickle
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import sdclr
from sdclr.cli import main
from sdclr.data.sources import ArraySource, open_source
from sdclr.encoders import load_encoder
from sdclr.encoders.weights import read_weights
from sdclr.features.embeddings import read_embeddings
from sdclr.files import csv_bytes
from sdclr.longtail.index_lists import load_index_list
from sdclr.marks.apply import apply_marks
from sdclr.marks.rows import Mark, Marks
from sdclr.mining.scores import Scores
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery
from sdclr.training.checkpoint import load_checkpoint, load_snapshot
from sdclr.visible import visible

ROOT = Path(sdclr.__file__).parents[2]
MODULES = sorted(path for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


def called(node: ast.Call) -> str:
    """The name of what is called, as it is written: `torch.load`, `eval`, `.load` of something else."""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        return f"{owner}.{function.attr}"
    return ""


def risky(source: str) -> list[str]:
    """Calls and imports by which contents of a file, or a text, may run as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [f"import {name}" for name in names if name.split(".")[0] in IMPORTS]
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                found += [
                    f"pickle.{alias.name}" for alias in node.names if alias.name in {"load", "loads", "Unpickler"}
                ]
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in CALLS:
            found.append(name)
        if name in {"torch.load", "torch.jit.load"} and given.get("weights_only") != "True":
            found.append(f"{name} without weights_only=True")
        if name.endswith(".load") and given.get("allow_pickle", "False") != "False":
            found.append(f"{name} with allow_pickle")
        if given.get("shell", "False") != "False":
            found.append(f"{name} with shell")
    return found


IMPORTS = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
ALLOWED = {"src/sdclr/decoding/workers.py: pickle.loads"}
"""Batches of our own worker processes come through a pipe."""
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("pickle.Unpickler", "pandas.read_pickle", "pd.read_pickle", "torch.hub.load", "runpy.run_path"),
}


@pytest.mark.parametrize("folder", ["src", "benchmarks", "examples"])
def test_no_call_runs_what_a_file_says(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {what}"
        for path in MODULES
        if path.is_relative_to(ROOT / folder)
        for what in risky(path.read_text())
    }
    assert found - ALLOWED == set()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "eval('1')",
            "exec(text)",
            "import yaml\nyaml.load(f)",
            "import pickle\npickle.load(f)",
            "from pickle import loads",
        ),
        *("torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "os.system('ls')"),
        *("subprocess.run('ls', shell=True)", "import marshal", "import shelve", "torch.load(f, weights_only=ask)"),
    ],
)
def test_what_would_run_is_found(text: str) -> None:
    assert risky(text)


class Intruder:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What an intruder would make."""
    path = tmp_path / "intruded"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def fuzz_watch() -> Iterator[Any]:
    """The module that sees what is written, connected and started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks" / "fuzz"), *sys.path])
        yield importlib.import_module("fuzz_watch")


def refused(read: Any, *arguments: Any) -> str:
    with pytest.raises(sdclr.InputError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(array: Any, path: Path) -> Path:
    np.save(path.with_suffix(".npy"), array, allow_pickle=True)
    return path.with_suffix(".npy")


def test_numpy_files_of_objects_are_refused_unread(tmp_path: Path, mark: Path) -> None:
    file = saved(np.array([Intruder(mark)], dtype=object), tmp_path / "objects")
    assert "cannot be read" in refused(load_index_list, file)
    assert "cannot be read" in refused(read_embeddings, file)


def test_numpy_archives_in_place_of_arrays_are_refused_unread(tmp_path: Path, mark: Path) -> None:
    np.savez(tmp_path / "a.npz", values=np.array([Intruder(mark)], dtype=object))
    file = (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert str(file) in refused(load_index_list, file)
    assert str(file.name) in refused(read_embeddings, file)


@pytest.mark.filterwarnings("ignore:.*damaged and skipped")
@pytest.mark.parametrize("old_format", [False, True])
def test_checkpoints_that_would_run_code_are_refused(tmp_path: Path, mark: Path, *, old_format: bool) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"a": Intruder(mark)}, file, _use_new_zipfile_serialization=not old_format)
    assert str(file) in refused(read_weights, file)
    assert str(tmp_path) in refused(load_encoder, f"timm:resnet18={file}")
    for name in ("step-000000001.pt", "epoch-00001.pt"):
        (tmp_path / name).write_bytes(file.read_bytes())
    # Whoever changes a checkpoint can change its sum too.
    (tmp_path / "step-000000001.sha256").write_text(hashlib.sha256(file.read_bytes()).hexdigest())
    refused(load_snapshot, tmp_path, 1)
    refused(load_checkpoint, tmp_path)


def test_pickles_in_parquet_metadata_stay_bytes(tmp_path: Path, mark: Path) -> None:
    code = pickle.dumps(Intruder(mark))
    blobs = {b"pandas": code, b"huggingface": code, b"sdclr": code}
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": code}
    schema = pa.schema([pa.field("path", pa.string(), metadata=extension), pa.field("label", pa.int64())], blobs)
    pq.write_table(pa.table({"path": ["a.png"], "label": [0]}, schema=schema), tmp_path / "manifest.parquet")
    assert list(open_source(tmp_path / "manifest.parquet").ids) == ["a.png"]
    vectors = pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    table = pa.table({"id": ["a"], "embedding": vectors}).replace_schema_metadata(blobs)
    pq.write_table(table, tmp_path / "embeddings.parquet")
    assert read_embeddings(tmp_path / "embeddings.parquet").ids == ["a"]
    refused(Scores.read, tmp_path / "embeddings.parquet")
    with io.BytesIO() as buffer:
        Image.new("RGB", (4, 4)).save(buffer, "PNG")
        images = pa.table({"image": [buffer.getvalue()], "label": [0]}).replace_schema_metadata(blobs)
    pq.write_table(images, tmp_path / "images.parquet")
    assert open_source(tmp_path / "images.parquet").image(0).shape == (4, 4, 3)


HOSTILE = [
    *("../../escaped.png", "/escaped.png", "..", ".", "/", "a/../../escaped.png", "C:\\x.png", "..\\..\\x.png"),
    *("null\0.png", "new\nline.png", "-rf", "--help", "x" * 5000, ("d" * 200 + "/") * 30 + "x.png", "~root/x.png"),
    *("con", "aux.png", ".hidden", "\udcff.png", "\x1b[31m.png", "\u202egnp.exe", "$(touch x)", "=1+1", " ", "\t"),
]
"""Ids and labels that would leave a folder, hide, or be taken for something else."""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize("how", ["copy", "symlink", "hardlink"])
def test_applied_marks_write_in_their_folders_alone(tmp_path: Path, fuzz_watch: Any, how: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (len(HOSTILE), 4, 4, 3), dtype=np.uint8)
    source = ArraySource(pixels, ids=HOSTILE, name="made")
    labels = [label for label in HOSTILE if label.isprintable()]
    marks = Marks(tuple(Mark(id=one, label=labels[row % len(labels)], mark="keep") for row, one in enumerate(HOSTILE)))
    around, out = tmp_path / "around", tmp_path / "out"
    around.mkdir()
    (around / "escaped.png").write_bytes(b"kept")
    before = tree(around)
    with fuzz_watch.watching(out) as watch:
        done = apply_marks(marks, source, links=out / "deep" / "links", classes=out / "deep" / "classes", how=how)
    assert [found for found in watch.found if f"os.mkdir '{out}'" not in found] == []
    assert tree(around) == before
    assert len(open_source(done.written["links"])) == len(HOSTILE)
    assert sorted(open_source(done.written["classes"] / "manifest.csv").classes) == sorted(
        {label.strip() for label in labels} - {""}
    )


def test_a_page_writes_in_its_folder_alone(tmp_path: Path, fuzz_watch: Any) -> None:
    source = ArraySource(np.zeros((len(HOSTILE), 8, 8, 3), dtype=np.uint8), ids=HOSTILE, name="../made")
    out = tmp_path / "out"
    out.mkdir()
    entries = GalleryEntries(
        ids=source.ids,
        columns={},
        rarity=np.linspace(1, 0.1, len(source)).astype(np.float32),
        rank=np.arange(1, len(source) + 1),
        percentile=np.linspace(100, 0, len(source)).astype(np.float32),
        kinds=np.zeros(len(source), dtype=np.int64),
        groups=[KindGroup(kind=0, size=len(source), separation=1.0, medoid=0, rare=False)],
        odd=np.arange(3),
        bad={},
        labels=None,
        classes=(),
        score="distance",
    )
    with fuzz_watch.watching(out) as watch:
        write_gallery(out / "page.html", entries, source, title="Rare")
    assert watch.found == []


def test_manifests_name_files_that_are_decoded_and_nothing_else(tmp_path: Path) -> None:
    """A manifest may name files anywhere. What is not an image file is reported and never shown."""
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "outside" / "a.png")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.png").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(tmp_path / "inside" / "pipe.png")
    manifest = tmp_path / "inside" / "list.csv"
    names = ["../outside/a.png", "../secret.txt", "link.png", "pipe.png", "/dev/zero", "/proc/self/environ", "a\0b"]
    manifest.write_bytes(csv_bytes([("path",), *((name,) for name in names)]))
    source = open_source(manifest)
    assert source.image(0).shape == (4, 4, 3)
    for index in range(1, len(names)):
        with pytest.raises(sdclr.BadImageError) as caught:
            source.image(index)
        assert "secret" not in caught.value.reason


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names and addresses that were asked for; none is reached."""
    asked: list[str] = []

    def refuse(*words: Any, **_: Any) -> Any:
        asked.append(repr(words[-2:]))
        raise OSError("no network in this test")

    def connect(itself: socket.socket, address: Any) -> Any:
        return joined(itself, address) if itself.family == socket.AF_UNIX else refuse(address)  # among processes here

    joined = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


def ended(words: Sequence[str]) -> int:
    """The exit code of a command."""
    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.slow
def test_commands_ask_no_network(
    tmp_path: Path, offline: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only weights that are named and not on disk are fetched."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    np.save("vectors.npy", values)
    for number in range(3):
        Path("images").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 60 * number, dtype=np.uint8)).save(f"images/{number}.png")
    Path("marks.csv").write_text("id,mark,label\n0.png,keep,a\n1.png,drop,\n")
    small = ("--encoder.name", "resnet18", "--encoder.width", "8", "--epochs", "1", "--device", "cpu")
    for words in (
        ("recipe", "cifar_lt"),
        ("info", "images"),
        ("apply", "marks.csv", "images", "--links", "links"),
        ("pretrain", "digits", "--run", "run", *small),
        ("evaluate", "--encoder", "run", "--train", "digits:train", "--test", "digits:test"),
        ("report", "run"),
        ("export", "run", "exported", "--formats", "timm"),
        ("embed", "images", "--encoder", "exported", "--out", "embedded.parquet"),
        ("mine", "vectors.npy", "--out", "mined"),
        ("duplicates", "images", "--encoder", "run"),
    ):
        code = ended(words)
        assert (code, offline) == (0, []), (words, capfd.readouterr().err[-600:])


def test_weights_of_the_hub_are_asked_for_when_they_are_named(
    offline: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "the hub cannot be reached" in refused(load_encoder, "timm:resnet18.a1_in1k")
    assert offline


LETTERS = "\x1b[2J\x07\x9b31m\u202e\u2066\udce9\r"
"""They clear the screen, ring, color, turn text, are half a character, and overwrite a line."""


def commanding(text: str) -> list[str]:
    """Letters of a text that a terminal would obey."""
    return [letter for letter in text if letter != "\n" and visible(letter) != letter]


def test_no_name_of_a_file_commands_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path(f"images{LETTERS}")
    for label in (f"cat{LETTERS}", "dog"):
        (place / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(place / label / f"{number}{LETTERS}.png")
    (place / "dog" / f"bad{LETTERS}.png").write_bytes(b"no image")
    (place / f"other{LETTERS}.txt").write_text("x")
    Path("marks.csv").write_bytes(csv_bytes([("id", "mark", "label"), (f"gone{LETTERS}", "keep", "x")]))
    Path(f"marks{LETTERS}.csv").write_text("id,mark\na,perhaps\n")
    for words in (
        ("info", str(place)),
        ("info", f"gone{LETTERS}"),
        ("apply", "marks.csv", str(place)),
        ("apply", f"marks{LETTERS}.csv"),
        ("mine", str(place), "--encoder", f"gone{LETTERS}"),
        ("pretrain", str(place), "--settings", f"gone{LETTERS}.toml", "--run", f"run{LETTERS}"),
        (f"command{LETTERS}",),
    ):
        ended(words)
        out, err = capfd.readouterr()
        assert out + err
        assert commanding(out + err) == [], words


def test_errors_are_one_line_of_bounded_length() -> None:
    error = sdclr.InputError(f"{'x' * 10_000}\n{LETTERS}: correct it")
    assert commanding(str(error)) == []
    assert "\n" not in str(error)
    assert len(str(error)) <= 2_000
    assert str(error).endswith(": correct it")
