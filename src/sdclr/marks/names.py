"""File and folder names from ids and labels, which may contain any characters.

A label becomes one folder name that is valid on every common file system. An id keeps its relative path, except parts
that would leave the folder, hide the file or be invalid. Names that differ only in case are made distinct, since some
file systems treat them as equal.
"""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from sdclr.data.sources import SPLIT_NAMES
from sdclr.decoding.formats import SUFFIXES

_LONGEST: Final = 200
"""Maximum bytes of one part of a path. File systems allow 255; the rest is for a distinguishing suffix."""

_DEEPEST: Final = 2_000
"""Maximum bytes of a relative path. Systems allow 4,096; the rest is for the parent folder."""

_FORBIDDEN: Final = frozenset('/\\<>:"|?*')
"""Characters that are invalid in a name on Windows or on every system."""

_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}
)
"""Device names that Windows reserves, also with an extension."""

_HIDDEN_KINDS: Final = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
_JOINERS: Final = frozenset("\u200c\u200d")
"""Invisible characters that occur in words and emoji."""


def folder_names(labels: Iterable[str], *, reserved: Iterable[str] = ()) -> dict[str, str]:
    """Unique folder names for labels.

    Args:
        labels: The labels; repetitions count once.
        reserved: Names that may not be used.

    Returns:
        Names by label, in the order of the sorted labels. A label that is a valid name keeps it, unless a label that
        sorts before it differs only in case.
    """
    found: dict[str, str] = {}
    taken = {_key(name) for name in reserved}
    ordered = sorted(set(labels))
    # Labels that are valid names come first, so that a changed label does not take their name.
    for label in sorted(ordered, key=lambda label: (_safe(label) != label, label)):
        name = _safe(label)
        for number in range(len(taken)):
            if _key(name) not in taken:
                break
            name = f"{_short(_safe(label), _LONGEST - 9)}-{_digest(label, number)}"
        taken.add(_key(name))
        found[label] = name
    names = set(map(str.casefold, found.values()))
    if len(names) > 1 and names <= SPLIT_NAMES:  # such folders would be read as the splits of a dataset
        first = min(found)
        found[first] = f"{found[first]}_"
    return {label: found[label] for label in ordered}


def relative_names(ids: Sequence[str], suffixes: Sequence[str], *, reserved: Iterable[str] = ()) -> list[str]:
    """Unique relative paths for ids. No path is a parent folder of another.

    Args:
        ids: Ids of images: relative paths or any other text.
        suffixes: Extension for each id that has no image extension, such as ".png".
        reserved: Paths that may not be used.

    Returns:
        Paths with `/` between their parts, in the order of the ids. They depend only on the arguments.
    """
    taken = {_key(path) for path in reserved}
    folders: set[str] = set()
    found = []
    for image_id, suffix in zip(ids, suffixes, strict=True):
        path = wanted = _relative(image_id, suffix)
        key = _key(path)
        for number in range(len(taken) + len(folders)):
            below = any(above in taken for above in _above(key))
            if not below and key not in taken and key not in folders:
                break
            stem, ending = os.path.splitext(wanted.rpartition("/")[2])  # noqa: PTH122  # a million paths are slow
            name = f"{_short(stem, _LONGEST - 9)}-{_digest(image_id, number)}{ending}"
            # If a file has the name of one of its parent folders, the image goes to the top.
            path = name if below else f"{path.rpartition('/')[0]}/{name}".lstrip("/")
            key = _key(path)
        taken.add(key)
        folders.update(_above(key))
        found.append(path)
    return found


def _relative(image_id: str, suffix: str) -> str:
    parts = [_part(part) for part in image_id.replace("\0", "_").split("/") if part not in ("", ".")] or ["_"]
    if _suffix(parts[-1]) not in SUFFIXES:
        parts[-1] = _shortened(parts[-1] + suffix, image_id)
    path = "/".join(parts)
    if len(path) * 4 > _DEEPEST and len(os.fsencode(path)) > _DEEPEST:
        stem, ending = os.path.splitext(parts[-1])  # noqa: PTH122  # a million paths are slow
        return f"{_short(stem, _LONGEST - 9 - len(ending))}-{_digest(image_id)}{ending}"
    return path


def _part(part: str) -> str:
    """One part of an id as a name that stays in its folder, is visible and is not too long."""
    if part == "..":
        return "_"
    return _shortened(f"_{part[1:]}" if part.startswith(".") else part, part)


def _shortened(name: str, of: str) -> str:
    if len(name) * 4 <= _LONGEST or len(os.fsencode(name)) <= _LONGEST:
        return name
    suffix = os.path.splitext(name)[1] if _suffix(name) in SUFFIXES else ""  # noqa: PTH122
    return f"{_short(name.removesuffix(suffix), _LONGEST - 9 - len(suffix))}-{_digest(of)}{suffix}"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  # a million paths are slow


def _safe(label: str) -> str:
    """A label as a valid folder name. It may not be unique."""
    name = "".join("_" if _hides(letter) or letter in _FORBIDDEN else letter for letter in label.strip())
    stem = name.rstrip(". ")
    name = stem + "_" * (len(name) - len(stem))  # Windows drops trailing dots and spaces
    if name.startswith("."):
        name = f"_{name[1:]}"
    if name.partition(".")[0].strip().casefold() in _DEVICES:
        name = f"_{name}"
    return _shortened(name, label) or "_"


def _hides(letter: str) -> bool:
    """Whether a character is invisible or changes the text direction."""
    kind = unicodedata.category(letter)
    return kind in _HIDDEN_KINDS or (kind == "Cf" and letter not in _JOINERS)


def _short(text: str, limit: int) -> str:
    """The beginning of a text: whole characters, at most `limit` bytes."""
    while len(os.fsencode(text)) > limit:
        text = text[: max(limit // 4, len(text) - max(1, (len(os.fsencode(text)) - limit) // 4))]
    return text.rstrip()


def _above(path: str) -> list[str]:
    """The parent folders of a path, topmost first."""
    return [path[:place] for place, letter in enumerate(path) if letter == "/"] if "/" in path else []


def _key(path: str) -> str:
    """Key that is equal for names that some file systems treat as equal."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _digest(text: str, number: int = 0) -> str:
    """Hash suffix that makes a name unique. The number separates names that still collide."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{digest}{number}" if number else digest
