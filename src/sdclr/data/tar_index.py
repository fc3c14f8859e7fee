"""An index of the members of a tar for random access to images, kept in the user's cache.

This module reads the headers itself, because `tarfile` ends a truncated archive without an error and reads an extended
header of any size into memory. Nothing is extracted.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa

from sdclr.data.annotations import LABEL_COLUMNS
from sdclr.decoding.formats import OTHER_SUFFIX, SUFFIXES
from sdclr.errors import InputError
from sdclr.files import parquet_bytes, read_table, user_cache_folder, write_atomically
from sdclr.limits import ROWS, TEXT
from sdclr.progress import tell

_FORMAT: Final = "1"
_STATE: Final = b"shard"
_BLOCK: Final = tarfile.BLOCKSIZE
_REGULAR: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_DATA: Final = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE),
    *(tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE),
)
SCHEMA: Final = pa.schema(
    [("key", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("label", pa.string()), ("fault", pa.string())]
)
"""A row is an image or a left-out member. For the latter, `fault` is the reason, and `key` is the member's name."""

_CUT: Final = "the tar is cut short here"


class _Member(NamedTuple):
    """A member of a tar, or its fault."""

    name: str
    offset: int = -1
    size: int = -1
    fault: str = ""


def read_index(path: Path, *, keep: bool = True) -> pa.Table:
    """The index of a tar in the WebDataset layout, from the cache if the file is unchanged.

    Members with the same name up to the first dot form a sample. Its image is the member with an extension such as
    `.jpg`. Its label is the text of `.cls`, or the value in `.json` of `label`, `labels`, `fine_label` or `cls`.

    Args:
        path: The tar, not compressed.
        keep: Use the cache, and keep the index there.

    Returns:
        Columns `key`, `offset`, `size`, `label` and `fault`; see `SCHEMA`. Images are in the order of the tar.

    Raises:
        InputError: The file is missing, or has more members than the limit of rows.
    """
    status = path.stat()
    if not keep:
        return _built(path, status.st_size)
    state = f"{_FORMAT} {status.st_size} {status.st_mtime_ns}".encode()
    try:
        name = blake2b(os.fsencode(path.absolute()), digest_size=16).hexdigest()
        kept = user_cache_folder() / "shards" / f"{name}.parquet"
    except OSError:
        return _built(path, status.st_size)
    try:
        table = read_table(kept, "it is created again")
        if (table.schema.metadata or {}).get(_STATE) == state:
            return table
    except InputError:
        pass  # missing or damaged: the index is built again
    table = _built(path, status.st_size)
    try:
        write_atomically(kept, parquet_bytes(table.replace_schema_metadata({_STATE: state}), compression="zstd"))
    except InputError as error:
        tell(f"the index of {path} is not kept, so that it is read again each time ({error})")
    return table


def _built(path: Path, size: int) -> pa.Table:
    samples: dict[str, dict[str, _Member]] = {}
    faults: list[_Member] = []
    with path.open("rb") as file:
        for number, member in enumerate(_members(file, size), start=1):
            ROWS.check(number, f"{path}: has {{}} members or more")
            folder, _, base = member.name.rpartition("/")
            key, dot, ending = base.partition(".")
            sample = f"{folder}/{key}" if folder else key
            known = samples.setdefault(sample, {})
            if member.fault or not dot or ending.lower() in known:
                faults.append(member._replace(fault=member.fault or _odd(dot)))
            else:
                known[ending.lower()] = member
        rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        for key, members in samples.items():
            image = _image(members)
            if image is not None:
                values = (key, members[image].offset, members[image].size, _label(file, path, members), None)
                for name, value in zip(SCHEMA.names, values, strict=True):
                    rows[name].append(value)
            elif members:
                faults.append(_Member(next(iter(members.values())).name, fault="a sample without an image"))
            faults += [
                member._replace(fault="a further image of its sample")
                for ending, member in members.items()
                if ending != image and f".{ending}" in SUFFIXES
            ]
    for fault in faults:
        for name, value in zip(SCHEMA.names, (fault.name, -1, -1, None, fault.fault), strict=True):
            rows[name].append(value)
    return pa.table(rows, schema=SCHEMA)


def _odd(dot: str) -> str:
    return "its name occurs twice" if dot else OTHER_SUFFIX


def _image(members: dict[str, _Member]) -> str | None:
    """The file extension of a sample's image; `jpg` comes before `mask.png`."""
    plain = (ending for ending in members if f".{ending}" in SUFFIXES)
    other = (ending for ending in members if f".{ending.rpartition('.')[2]}" in SUFFIXES)
    return next(plain, None) or next(other, None)


def _label(file: BinaryIO, path: Path, members: dict[str, _Member]) -> str | None:
    """The label of a sample as text; None if it is missing, or neither a number nor a text."""
    for ending in ("cls", "json"):
        member = members.get(ending)
        if member is None:
            continue
        TEXT.check(member.size, f"{path}: {member.name} has {{}} bytes")
        file.seek(member.offset)
        text = file.read(member.size).decode("utf-8", "replace").strip()
        value = text if ending == "cls" else _named(text)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
    return None


def _named(text: str) -> object:
    """The label in the JSON of a sample."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return values
    return next((values[name] for name in (*LABEL_COLUMNS, "cls") if name in values), None)


def _members(file: BinaryIO, size: int) -> Iterator[_Member]:
    """The regular files of a tar, and a fault for each other member. A fault is the last item of a truncated tar."""
    at = 0
    extended: dict[str, str] = {}
    while True:
        head = os.pread(file.fileno(), _BLOCK, at)
        if head == bytes(_BLOCK):
            return
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            yield _Member("", fault=_end(head, at))
            return
        name = extended.get("path", info.name)
        length = 0 if info.type in _WITHOUT_DATA else int(extended.get("size", info.size))
        at += _BLOCK
        if length < 0 or at + length > size:
            yield _Member(name, fault=_CUT)
            return
        if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if length > TEXT.value:
                yield _Member(name, fault=f"a name of {length:,} bytes ({TEXT.variable} allows more)")
            else:
                extended |= _extended(os.pread(file.fileno(), length, at), info.type)
        elif info.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            if not info.isdir():
                yield _checked(_Member(name.removeprefix("./"), at, length), info.type, extended)
            extended = {}
        at += -(-length // _BLOCK) * _BLOCK


def _checked(member: _Member, kind: bytes, extended: dict[str, str]) -> _Member:
    path = PurePosixPath(member.name)
    if kind not in _REGULAR or any(key.startswith("GNU.sparse") for key in extended):
        return _Member(member.name, fault="no regular file but a link, a device or the like")
    if path.is_absolute() or ".." in path.parts:
        return _Member(member.name, fault="its name leads out of the tar")
    return member


def _end(head: bytes, at: int) -> str:
    if at == 0:
        return "no tar" if head[:2] != b"\x1f\x8b" else "compressed: unpack it to a plain .tar (gunzip)"
    return _CUT if len(head) < _BLOCK else f"damaged at byte {at:,}: what follows is lost"


def _extended(data: bytes, kind: bytes) -> dict[str, str]:
    """Parse an extended header, which describes the next member: records of "LENGTH KEY=VALUE", or a long name."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "backslashreplace")}
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            break
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        data = data[int(length) :]
    if not found.get("size", "0").isdecimal():
        del found["size"]
    return found
