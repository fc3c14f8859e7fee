"""The fuzzed readers. Each reads a file and raises `AssertionError` if the result is inconsistent."""

import csv
import hashlib
import json
import os
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np

import fuzz_seeds as seeds
from fuzz_mutate import CSV
from sdclr.cli.labels import labeled_ids
from sdclr.data.folder import FolderSource
from sdclr.data.shards import ShardSource
from sdclr.data.sources import attributes_of, image_file, open_source
from sdclr.decoding import decode
from sdclr.downstream.config import FinetuneConfig
from sdclr.encoders.saved import load_saved
from sdclr.encoders.weights import read_weights
from sdclr.errors import BadImageError, InputError
from sdclr.evaluation.config import AttributeConfig, EvaluateConfig
from sdclr.features.embeddings import EmbeddedImages, read_embeddings
from sdclr.longtail.index_lists import load_index_list, read_path_list
from sdclr.marks.apply import apply_marks
from sdclr.marks.moves import undo_moves
from sdclr.marks.table import read_marks, write_marks
from sdclr.mining.config import DiagnoseConfig, MineConfig
from sdclr.mining.scores import Scores
from sdclr.settings import read_settings, read_settings_file, write_settings
from sdclr.training.checkpoint import load_checkpoint, load_snapshot
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run

_PIXELS: Final = {"SDCLR_MAX_PIXELS": "4M"}
"""Limit of pixels, lower than the default, so that inputs take milliseconds."""
_PAGES: Final = 20
"""Maximum number of decoded pages of a file."""


def try_image(path: Path) -> None:
    """Header, whole picture and reduced picture must be consistent."""
    with patch.dict(os.environ, _PIXELS):
        _decoded(path)


def _decoded(path: Path) -> None:
    data = path.read_bytes()
    try:
        header = decode.read_header(path, image_id="given")
    except BadImageError:
        header = None
    pixels = decode.decode_image(path, image_id="given")
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert header is not None, "decoded, but its header cannot be read"
    if header.format == "JPEG":
        assert pixels.shape[:2] == (header.height, header.width), f"{pixels.shape} for {header}"
    small = decode.decode_image(data, image_id="given", min_side=8)
    assert min(small.shape[:2]) >= min(8, *pixels.shape[:2])


def try_pages(path: Path) -> None:
    """Each page must have a unique id, and be an image or unreadable."""
    with patch.dict(os.environ, _PIXELS):
        source = FolderSource(path.parent)
        assert len(set(source.ids)) == len(source)
        for index in range(min(len(source), _PAGES)):
            with suppress(BadImageError):
                assert source.image(index).dtype == np.uint8


def try_shard(path: Path) -> None:
    """Images of a tar file must have unique ids, and bytes that are in the file."""
    with patch.dict(os.environ, _PIXELS):
        source = ShardSource([path], keep_index=False)
        assert len(set(source.ids)) == len(source)
        whole = path.read_bytes()
        for index in range(len(source)):
            with suppress(BadImageError):
                assert source.encoded(index) in whole
                source.image(index)


@cache
def _prepared() -> tuple[int, int] | None:
    """State of a worker process after `prepare_worker`."""
    decode.prepare_worker()
    left, decode._standard_error = decode._standard_error, None  # noqa: SLF001
    return left


def try_opencv(path: Path) -> None:
    """Decode as in worker processes, which use OpenCV for plain JPEGs."""
    decode._standard_error = _prepared()  # noqa: SLF001
    try:
        try_image(path)
    finally:
        decode._standard_error = None  # noqa: SLF001  # other targets decode as the main process does


def try_source(path: Path) -> None:
    source = open_source(path)
    assert len(source.ids) == len(source) == len(set(source.ids))
    assert source.labels is None or len(source.labels) == len(source)
    attributes = attributes_of(source)
    assert attributes is None or len(attributes) == len(source)
    for index in {0, len(source) // 2, len(source) - 1}:
        image_file(source, index)
        try:
            source.image(index)
        except BadImageError:
            continue


def try_marks(path: Path) -> None:
    """Written marks must be read back unchanged, and a dry run of `apply_marks` must work."""
    marks = read_marks(path)
    copy = path.with_name("copy.csv")
    write_marks(copy, marks)
    again = read_marks(copy)
    assert [(row.id, row.path, row.mark, row.label) for row in again.rows] == [
        (row.id, row.path, row.mark, row.label) for row in marks.rows
    ]
    apply_marks(marks, Path("images"), manifest="kept.csv", drop_list="drop.csv", dry_run=True)


def try_applied(path: Path) -> None:
    """Files must be written into the given folders, whatever the ids and labels."""
    out = path.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    marks = read_marks(path)
    done = apply_marks(marks, None, links=out / "links", classes=out / "classes", unlabeled="none", how="symlink")
    for folder in (done.written["links"], done.written["classes"]):
        read = open_source(folder)
        assert len(read) > 0


def try_moved(path: Path) -> None:
    """The log determines where files go. Here its absolute paths are moved below the current folder."""
    away, here = path.with_name("away"), str(Path.cwd())
    shutil.rmtree(away, ignore_errors=True)
    away.mkdir()
    (away / "a.png").write_bytes(b"a")
    try:
        rows = CSV.split(path.read_bytes())
    except csv.Error:
        (away / "moved.csv").write_bytes(path.read_bytes())
    else:
        inside = [[here + os.path.normpath(cell) if cell[:1] == "/" else cell for cell in row] for row in rows]
        (away / "moved.csv").write_bytes(CSV.join(inside))
    undo_moves(away)


def try_labeled(path: Path) -> None:
    found = labeled_ids([path])
    assert len(found) == len(set(found))


_OTHERS: Final = (EvaluateConfig, FinetuneConfig, MineConfig, AttributeConfig, DiagnoseConfig)


def try_settings(path: Path) -> None:
    """Accepted settings must be written and read back unchanged."""
    file = read_settings_file(path)
    for other in _OTHERS:
        with suppress(InputError):
            file.config(other)
    config = file.config(PretrainConfig)
    for name in ("again.toml", "again.json"):
        write_settings(path.with_name(name), config)
        assert read_settings(path.with_name(name), PretrainConfig) == config


def try_index(path: Path) -> None:
    found = load_index_list(path)
    assert found.dtype == np.int64
    assert found.ndim == 1


def try_paths(path: Path) -> None:
    ids, numbers = read_path_list(path)
    assert len(ids) == len(numbers)


def try_embeddings(path: Path) -> None:
    found = read_embeddings(path)
    assert len(found.ids) == len(found.values)
    assert np.isfinite(found.values).all()
    source = EmbeddedImages(found)
    for index in {0, len(source) - 1}:
        try:
            source.image(index)
        except BadImageError:
            continue


def try_weights(path: Path) -> None:
    read_weights(path)


def try_checkpoint(path: Path) -> None:
    """The checksum is valid, because an attacker can change it, too."""
    folder = path.with_name("checkpoints")
    folder.mkdir(exist_ok=True)
    data = path.read_bytes()
    (folder / "step-000000010.pt").write_bytes(data)
    (folder / "step-000000010.sha256").write_text(hashlib.sha256(data).hexdigest())
    (folder / "epoch-00001.pt").write_bytes(data)
    load_snapshot(folder, 1)
    load_checkpoint(folder)


def _export(description: bytes, weights: bytes) -> None:
    folder = Path("export")
    folder.mkdir(exist_ok=True)
    (folder / "encoder.json").write_bytes(description)
    (folder / "model.safetensors").write_bytes(weights)
    load_saved(folder)


def try_description(path: Path) -> None:
    _export(path.read_bytes(), seeds.encoder_weights()[0])


def try_encoder_weights(path: Path) -> None:
    _export(seeds.encoder_description()[0], path.read_bytes())


def try_run_config(path: Path) -> None:
    folder = path.with_name("run")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(path.read_bytes())
    assert Run.open(folder).config is not None


def try_metrics(path: Path) -> None:
    folder = path.with_name("run")
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(path.read_bytes())
    assert all(isinstance(line, dict) for line in Run(folder).metrics())


def try_scores(path: Path) -> None:
    scores = Scores.read(path)
    assert len(scores.order()) <= len(scores)
    json.dumps(scores.summary(), default=str)
