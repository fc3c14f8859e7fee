"""Files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from sdclr.errors import InputError


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Put a file in its place whole or not at all, on disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too, must survive a power cut
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: If it cannot be read as one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object for people to read, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 come as lone surrogates, and go back to the bytes they were.
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
