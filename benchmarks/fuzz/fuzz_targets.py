"""Fuzz targets: every reader of files from people or other programs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import fuzz_readers as readers
import fuzz_seeds as seeds
from fuzz_mutate import CSV, JPEG, JSON, JSONL, LINES, NPY, PARQUET, PNG, SAFETENSORS, TEXTS, TOML, WEBP, ZIP, Parts

Group = Literal["images", "tables", "settings", "marks", "parquet", "arrays", "networks", "runs"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader."""

    name: str
    group: Group
    suffix: str
    """Suffix of the file."""
    seeds: Callable[[], list[bytes]]
    run: Callable[[Path], None]
    """Reads a file in the current folder. Raises `AssertionError` if the result is inconsistent."""
    parts: Parts | None = None
    tokens: tuple[bytes, ...] = ()


_TEXT: Final = tuple(text.encode("utf-8", "surrogateescape") for text in TEXTS)
_KEYS: Final = tuple(
    f"{name} = ".encode() for name in ("epochs", "seed", "lr", "ratio", "name", "width", "optim", "damage", "views")
)


def _image_target(kind: str, parts: Parts | None = None) -> Target:
    made: Callable[[], list[bytes]] = getattr(seeds, kind)
    return Target(
        name=f"image {kind.upper()}", group="images", suffix=f".{kind}", seeds=made, run=readers.try_image, parts=parts
    )


TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        _image_target("jpeg", JPEG),
        Target(
            name="image JPEG, OpenCV",
            group="images",
            suffix=".jpg",
            seeds=seeds.jpeg,
            run=readers.try_opencv,
            parts=JPEG,
        ),
        _image_target("png", PNG),
        _image_target("gif"),
        _image_target("tiff"),
        _image_target("webp", WEBP),
        _image_target("bmp"),
        _image_target("ppm"),
        _image_target("avif"),
        _image_target("jp2"),
        _image_target("heic"),
        Target(name="pages TIFF", group="images", suffix=".tif", seeds=seeds.tiff, run=readers.try_pages),
        Target(name="tar shard", group="tables", suffix=".tar", seeds=seeds.tar, run=readers.try_shard),
        Target(
            name="manifest CSV",
            group="tables",
            suffix=".csv",
            seeds=seeds.manifest_csv,
            run=readers.try_source,
            parts=CSV,
            tokens=_TEXT,
        ),
        Target(
            name="manifest text",
            group="tables",
            suffix=".txt",
            seeds=seeds.path_list,
            run=readers.try_source,
            parts=LINES,
            tokens=_TEXT,
        ),
        Target(
            name="index list text",
            group="tables",
            suffix=".txt",
            seeds=seeds.path_list,
            run=readers.try_paths,
            parts=LINES,
            tokens=_TEXT,
        ),
        Target(
            name="ids of labeled images",
            group="tables",
            suffix=".csv",
            seeds=seeds.labeled,
            run=readers.try_labeled,
            parts=CSV,
            tokens=_TEXT,
        ),
        Target(
            name="settings TOML",
            group="settings",
            suffix=".toml",
            seeds=seeds.settings_toml,
            run=readers.try_settings,
            parts=TOML,
            tokens=_KEYS,
        ),
        Target(
            name="settings JSON",
            group="settings",
            suffix=".json",
            seeds=seeds.settings_json,
            run=readers.try_settings,
            parts=JSON,
            tokens=_TEXT,
        ),
        Target(
            name="marks",
            group="marks",
            suffix=".csv",
            seeds=seeds.marks,
            run=readers.try_marks,
            parts=CSV,
            tokens=_TEXT,
        ),
        Target(
            name="marks applied",
            group="marks",
            suffix=".csv",
            seeds=seeds.marks,
            run=readers.try_applied,
            parts=CSV,
            tokens=_TEXT,
        ),
        Target(
            name="log of moved files",
            group="marks",
            suffix=".csv",
            seeds=seeds.moved_log,
            run=readers.try_moved,
            parts=CSV,
            tokens=_TEXT,
        ),
        Target(
            name="manifest Parquet",
            group="parquet",
            suffix=".parquet",
            seeds=seeds.manifest_parquet,
            run=readers.try_source,
            parts=PARQUET,
        ),
        Target(
            name="images Parquet",
            group="parquet",
            suffix=".parquet",
            seeds=seeds.parquet_images,
            run=readers.try_source,
            parts=PARQUET,
        ),
        Target(
            name="embeddings Parquet",
            group="parquet",
            suffix=".parquet",
            seeds=seeds.embeddings_parquet,
            run=readers.try_embeddings,
            parts=PARQUET,
        ),
        Target(
            name="scores Parquet",
            group="parquet",
            suffix=".parquet",
            seeds=seeds.scores,
            run=readers.try_scores,
            parts=PARQUET,
        ),
        Target(
            name="index list NumPy",
            group="arrays",
            suffix=".npy",
            seeds=seeds.index_npy,
            run=readers.try_index,
            parts=NPY,
        ),
        Target(
            name="embeddings NumPy",
            group="arrays",
            suffix=".npy",
            seeds=seeds.embeddings_npy,
            run=readers.try_embeddings,
            parts=NPY,
        ),
        Target(
            name="weights torch",
            group="networks",
            suffix=".pth",
            seeds=seeds.weights_torch,
            run=readers.try_weights,
            parts=ZIP,
        ),
        Target(
            name="weights safetensors",
            group="networks",
            suffix=".safetensors",
            seeds=seeds.weights_safetensors,
            run=readers.try_weights,
            parts=SAFETENSORS,
        ),
        Target(
            name="checkpoint",
            group="networks",
            suffix=".pt",
            seeds=seeds.checkpoint,
            run=readers.try_checkpoint,
            parts=ZIP,
        ),
        Target(
            name="export: description",
            group="networks",
            suffix=".json",
            seeds=seeds.encoder_description,
            run=readers.try_description,
            parts=JSON,
            tokens=_TEXT,
        ),
        Target(
            name="export: weights",
            group="networks",
            suffix=".safetensors",
            seeds=seeds.encoder_weights,
            run=readers.try_encoder_weights,
            parts=SAFETENSORS,
        ),
        Target(
            name="run: configuration",
            group="runs",
            suffix=".json",
            seeds=seeds.run_config,
            run=readers.try_run_config,
            parts=JSON,
            tokens=_TEXT,
        ),
        Target(
            name="run: metrics",
            group="runs",
            suffix=".jsonl",
            seeds=seeds.metrics,
            run=readers.try_metrics,
            parts=JSONL,
        ),
    )
}
"""All targets by name."""
