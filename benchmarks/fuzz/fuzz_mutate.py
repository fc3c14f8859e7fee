"""Change valid files into hostile ones: blindly, or part by part with corrected checksums and lengths."""

import csv
import io
import json
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import tomli_w

LARGEST: Final = 65_536
"""Maximum size of an input in bytes."""

INTERESTING: Final = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 2**31 - 1, 2**31)
"""Integers that often cause errors. Their negative values give those near 2**32."""

TEXTS: Final = (
    *("", " ", "0", "-1", "1e999", "nan", "inf", "true", "null", "None", "9" * 400, "1" * 5_000, "0x10", "1_000"),
    *("../../../etc/passwd", "/etc/passwd", "/dev/zero", "~root", "C:\\x", "a/../b", "./a.png", "file:///etc/passwd"),
    *("\0", "a\0b", "\n", "a\nb", "\r", "\t", "-rf", "--help", "=1+1", "@SUM(A1)", "+1", "$(id)", "`id`", "%s%n"),
    *("\x1b[2J", "\x1b]0;t\x07", "\u202egnp", "\ufeff", "\ufffd", "\u2028", "é", "\U0001f989", "İ", "ß", "x" * 300),
    *("<script>", "'", '"', '""', ",", ";", "|", "attr:", "attributes", "label", "id", "path", "drop", "keep"),
)
"""Unusual cells, keys and values."""


class Parts(NamedTuple):
    """Functions that split a kind of file into parts and join them again."""

    split: Callable[[bytes], list[Any]]
    """May raise any exception if the file is not of this kind."""
    join: Callable[[list[Any]], bytes]
    change: Callable[[Any, Random], Any] | None = None
    """Changes one part; by default the parts are bytes, which are changed blindly."""


def mutate(
    data: bytes, random: Random, seeds: Sequence[bytes], *, parts: Parts | None = None, tokens: Sequence[bytes] = ()
) -> bytes:
    """A hostile variant of a file.

    Args:
        data: The file.
        random: Source of all random decisions.
        seeds: Other files of the same kind, for splicing.
        parts: Splits and joins the file; half of the variants then change one part.
        tokens: Bytes that are sometimes inserted.
    """
    if parts is not None and random.random() < 0.5:
        try:
            return _by_parts(data, random, seeds, parts, tokens)[:LARGEST]
        except Exception:  # noqa: BLE001  # not a file of this kind: change it blindly
            return blindly(data, random, seeds, tokens)
    return blindly(data, random, seeds, tokens)


def blindly(data: bytes, random: Random, seeds: Sequence[bytes] = (), tokens: Sequence[bytes] = ()) -> bytes:
    """A file with one to four random changes."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        data = random.choice(_CHANGES)(data, random, seeds, tokens)
    return data[:LARGEST]


def _by_parts(data: bytes, random: Random, seeds: Sequence[bytes], parts: Parts, tokens: Sequence[bytes]) -> bytes:
    found = parts.split(data)
    place = random.randrange(len(found))
    match random.randrange(6):
        case 0:
            del found[place]
        case 1:
            found[place:place] = [found[place]] * random.choice((1, 1, 2, 50))
        case 2:
            other = parts.split(random.choice(seeds))
            found[place] = random.choice(other)
        case _ if parts.change is not None:
            found[place] = parts.change(found[place], random)
        case _:
            found[place] = blindly(found[place], random, (), tokens)
    return parts.join(found)


def _place(data: bytes, random: Random) -> int:
    """A position, often near the beginning, where headers are."""
    if not data:
        return 0
    return random.randrange(min(len(data), 64)) if random.random() < 0.4 else random.randrange(len(data))


def _flip(data: bytes, random: Random, *_: Any) -> bytes:
    changed = bytearray(data)
    for _number in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[_place(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, random: Random, *_: Any) -> bytes:
    return data[: _place(data, random)]


def _number(data: bytes, random: Random, *_: Any) -> bytes:
    """Replace 1, 2, 4 or 8 bytes with a number."""
    form = random.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    value = random.choice(INTERESTING) if random.random() < 0.8 else random.getrandbits(8 * size)
    value = -value if random.random() < 0.3 else value
    place = _place(data, random)
    return data[:place] + struct.pack(form, value % 2 ** (8 * size)) + data[place + size :]


def _digits(data: bytes, random: Random, *_: Any) -> bytes:
    """Replace a digit with a number."""
    places = [place for place, byte in enumerate(data[:4096]) if 48 <= byte <= 57]
    if not places:
        return data
    place = random.choice(places)
    value = random.choice((*map(str, INTERESTING), "-1", "1e309", "9" * 30, "0.5", ""))
    return data[:place] + value.encode() + data[place + 1 :]


def _delete(data: bytes, random: Random, *_: Any) -> bytes:
    place = _place(data, random)
    return data[:place] + data[place + random.choice((1, 2, 4, 16, 200)) :]


def _repeat(data: bytes, random: Random, *_: Any) -> bytes:
    place = _place(data, random)
    block = data[place : place + random.choice((1, 4, 16, 64))]
    return data[:place] + block * random.choice((2, 3, 17, 400)) + data[place:]


def _insert(data: bytes, random: Random, _seeds: Any, tokens: Sequence[bytes]) -> bytes:
    place = _place(data, random)
    new = random.choice(tokens) if tokens and random.random() < 0.7 else random.choice(TEXTS).encode()
    kept = place + (len(new) if random.random() < 0.5 else 0)
    return data[:place] + new + data[kept:]


def _noise(data: bytes, random: Random, *_: Any) -> bytes:
    place = _place(data, random)
    new = random.randbytes(random.choice((1, 2, 4, 32)))
    return data[:place] + new + data[place + random.choice((0, len(new))) :]


def _splice(data: bytes, random: Random, seeds: Sequence[bytes], *_: Any) -> bytes:
    other = random.choice(seeds) if seeds else data
    return data[: _place(data, random)] + other[_place(other, random) :]


_CHANGES: Final = (_flip, _truncate, _number, _number, _digits, _delete, _repeat, _insert, _noise, _splice)


# PNG: chunks with their checksums.


def _png_split(data: bytes) -> list[bytes]:
    found, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append(data[place + 4 : place + 8 + length])
        place += 12 + length
    return found


def _png_join(chunks: list[bytes]) -> bytes:
    framed = (
        struct.pack(">I", max(0, len(chunk) - 4)) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


PNG: Final = Parts(_png_split, _png_join)


# JPEG: segments with their lengths.


def _jpeg_split(data: bytes) -> list[bytes]:
    found, place = [], 2
    while data[place] == 0xFF and data[place + 1] not in {0xDA, 0xD9}:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        found.append(data[place + 1 : place + 2] + data[place + 4 : place + 2 + length])
        place += 2 + length
    return [*found, b"\0" + data[place:]]


def _jpeg_join(segments: list[bytes]) -> bytes:
    *headers, rest = segments
    framed = (b"\xff" + one[:1] + struct.pack(">H", (len(one) + 1) % 65_536) + one[1:] for one in headers)
    return b"\xff\xd8" + b"".join(framed) + rest[1:]


JPEG: Final = Parts(_jpeg_split, _jpeg_join)


# RIFF, the container of WebP: chunks with their lengths.


def _riff_split(data: bytes) -> list[bytes]:
    found, place = [], 12
    while place + 8 <= len(data):
        (length,) = struct.unpack("<I", data[place + 4 : place + 8])
        found.append(data[place : place + 4] + data[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    return found


def _riff_join(chunks: list[bytes]) -> bytes:
    framed = (one[:4] + struct.pack("<I", max(0, len(one) - 4)) + one[4:] + b"\0" * (len(one) % 2) for one in chunks)
    body = b"WEBP" + b"".join(framed)
    return b"RIFF" + struct.pack("<I", len(body)) + body


WEBP: Final = Parts(_riff_split, _riff_join)


# NumPy and safetensors: a header of known length, and data.


def _npy_split(data: bytes) -> list[bytes]:
    (length,) = struct.unpack("<H", data[8:10])
    return [data[10 : 10 + length], data[10 + length :]]


def _npy_join(both: list[bytes]) -> bytes:
    head, *rest = both
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) % 65_536) + head + b"".join(rest)


NPY: Final = Parts(_npy_split, _npy_join)


def _safetensors_split(data: bytes) -> list[bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return [data[8 : 8 + length], data[8 + length :]]


def _safetensors_join(both: list[bytes]) -> bytes:
    head, *rest = both
    return struct.pack("<Q", len(head)) + head + b"".join(rest)


SAFETENSORS: Final = Parts(_safetensors_split, _safetensors_join)


# ZIP, the format of checkpoints and NumPy archives: members with their checksums.


def _zip_split(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _zip_join(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in dict(members).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _zip_change(member: tuple[str, bytes], random: Random) -> tuple[str, bytes]:
    name, content = member
    if random.random() < 0.1:
        return random.choice((name + "x", "../" + name, "/" + name, name.upper(), "archive/data.pkl")), content
    return name, blindly(content, random)


ZIP: Final = Parts(_zip_split, _zip_join, _zip_change)


# Parquet: data and footer, with the correct length of the footer.


def _parquet_split(data: bytes) -> list[bytes]:
    (length,) = struct.unpack("<I", data[-8:-4])
    return [data[: -8 - length], data[-8 - length : -8]]


def _parquet_join(both: list[bytes]) -> bytes:
    *body, foot = both
    return b"".join(body) + foot + struct.pack("<I", len(foot)) + b"PAR1"


PARQUET: Final = Parts(_parquet_split, _parquet_join)


# CSV and lines: cells.


def _csv_split(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")))


def _csv_join(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _csv_change(row: list[str], random: Random) -> list[str]:
    row = list(row) or [""]
    place = random.randrange(len(row))
    match random.randrange(5):
        case 0:
            del row[place]
        case 1:
            row.insert(place, random.choice(TEXTS))
        case 2:
            row[place] = row[place] + random.choice(TEXTS)
        case _:
            row[place] = random.choice(TEXTS)
    return row


CSV: Final = Parts(_csv_split, _csv_join, _csv_change)


def _lines_split(data: bytes) -> list[bytes]:
    return data.split(b"\n")


LINES: Final = Parts(_lines_split, b"\n".join)


# JSON and TOML: keys and values.


def _tree_change(item: tuple[str, Any], random: Random) -> tuple[str, Any]:
    key, value = item
    if isinstance(value, dict) and value and random.random() < 0.8:
        inner = list(value.items())
        place = random.randrange(len(inner))
        inner[place] = _tree_change(inner[place], random)
        return key, dict(inner)
    if random.random() < 0.2:
        return random.choice((*TEXTS, key + "x", key.upper())), value
    return key, random.choice(
        (
            *(
                0,
                1,
                -1,
                2**31,
                2**63 - 1,
                -(2**63),
                0.5,
                -0.5,
                1e300,
                5e-324,
                True,
                False,
                [],
                {},
                [value],
                {"a": value},
            ),
            *([value] * 3, [0.1, 0.2], ["a", "b", "c"], "none", "auto", "cosine", random.choice(TEXTS)),
        )
    )


def _json_split(data: bytes) -> list[tuple[str, Any]]:
    return list(json.loads(data).items())


def _json_join(items: list[tuple[str, Any]]) -> bytes:
    return json.dumps(dict(items)).encode()


JSON: Final = Parts(_json_split, _json_join, _tree_change)


def _toml_split(data: bytes) -> list[tuple[str, Any]]:
    return list(tomllib.loads(data.decode()).items())


def _toml_join(items: list[tuple[str, Any]]) -> bytes:
    return tomli_w.dumps(dict(items)).encode("utf-8", "surrogateescape")


TOML: Final = Parts(_toml_split, _toml_join, _tree_change)


def _jsonl_join(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _jsonl_change(line: dict[str, Any], random: Random) -> dict[str, Any]:
    return dict([_tree_change(("", line), random)])[""] if line else {random.choice(TEXTS): 1}


JSONL: Final = Parts(lambda data: [json.loads(line) for line in data.splitlines()], _jsonl_join, _jsonl_change)
