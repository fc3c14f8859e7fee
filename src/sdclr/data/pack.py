"""Write images as tar shards in the WebDataset layout, with a manifest of ids, counts and checksums."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdclr.data.hugging_face import Stream, open_stream
from sdclr.data.intensities import intensities_of
from sdclr.data.scan import write_bad_images
from sdclr.data.shards import FORMAT, MANIFEST
from sdclr.data.sources import ImageSource, Source, fingerprint, image_bytes, image_file, open_source
from sdclr.data.torch_dataset import as_label, as_pixels
from sdclr.decoding.decode import BadImage, decode_image, read_header
from sdclr.decoding.formats import ENDINGS
from sdclr.errors import BadImageError, InputError
from sdclr.files import (
    append_json,
    read_json,
    read_json_lines,
    remove,
    streamed,
    with_checksum,
    write_atomically,
    write_json,
)
from sdclr.files.alone import only_process
from sdclr.progress import stage, tell

_DONE: Final = ".packed.jsonl"
"""The settings, then the contents of each finished shard. A stopped call resumes from this file."""
_LOCK: Final = ".packing"
_BAD: Final = "bad_images.csv"
_KEYS: Final = {"shard": str, "images": int, "bytes": int, "sha256": str, "first": int, "ids": list, "bad": list}
_OURS: Final = (_DONE, _LOCK, _BAD, MANIFEST)
_SHARD: Final = re.compile(r"shard-\d{6,}\.tar")
_QUALITY: Final = 95
"""Quality of JPEGs that are encoded again."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Result of `pack`.

    Examples:
        >>> packed = sdclr.pack("images", "shards", shard_images=25)
        >>> packed.images, packed.bad
        (60, 0)
    """

    folder: Path
    shards: int
    images: int
    bytes: int
    """Size of all shards."""
    bad: int
    """Images that are left out; `bad_images.csv` lists them with reasons."""


class _Item(NamedTuple):
    """An encoded image for a shard."""

    id: str
    data: bytes
    ending: str
    label: tuple[str, bytes] | None
    """File extension and bytes of the tar member that holds the label."""


class _Raw(NamedTuple):
    """An input image."""

    id: str
    label: Any
    stored: Callable[[], bytes | Path | None]
    decode: Callable[[int | None], NDArray[np.uint8]]
    """Its argument is the sufficient shorter side in pixels, or None for full size."""


def pack(
    images: ImageSource,
    out: Path | str,
    *,
    shard_images: int = 10_000,
    shard_gb: float = 1.0,
    shuffle: bool = False,
    shorter_side: int | None = None,
) -> Packed:
    """Write images as tar shards in the WebDataset layout, which `open_source("wds:OUT")` and WebDataset read.

    Encoded images are copied unchanged; pixel arrays become PNGs. A shard holds `KEY.jpg` (or `.png`, …) and, if the
    label is known, `KEY.cls` with the class number. `manifest.json` has ids, class names, counts and the SHA-256 of
    each shard, so that the images keep their ids. Repeating a stopped call resumes it, with the same result. Items
    without an image header are left out and listed. Attributes are not written.

    Args:
        images: A folder, a manifest, or anything else that `open_source` accepts; a stream is read once.
        out: A new or empty folder, or the folder of a stopped call with the same settings.
        shard_images: Maximum number of images in a shard.
        shard_gb: Maximum size of a shard in GB of 10^9 bytes; a larger image gets its own shard.
        shuffle: Write images in a fixed random order. A shuffle buffer needs this if neighbors are alike, as in class
            folders. By default images keep their order.
        shorter_side: Shrink larger images to this shorter side in pixels, as JPEGs of quality 95.

    Returns:
        Counts.

    Raises:
        InputError: The folder has other contents, a number is too small, or no image can be packed.
        StorageError: Writing fails, for example on a full disk. Finished shards stay, and a repeated call resumes
            after them.

    Examples:
        >>> sdclr.pack("images", "shards", shard_images=25).shards
        3
        >>> sdclr.open_source("wds:shards").ids[:2]
        ['circle/00.jpg', 'circle/01.jpg']
    """
    out, stream = Path(out), images if isinstance(images, Stream) else open_stream(images)
    given = open_source(images) if stream is None else stream
    if shard_images < 1 or shard_gb <= 0 or (shorter_side is not None and shorter_side < 1):
        raise InputError("shard_images and shorter_side are 1 or more, and shard_gb is more than 0")
    if isinstance(given, Stream) and shuffle:
        raise InputError(f"{given.name}: a stream cannot be shuffled by pack: shuffle it first, and leave out shuffle")
    if not isinstance(given, Stream) and (chosen := intensities_of(given))[1]:
        tell(f"shards hold the images as they are, without your range: give it again ({chosen[0].sentence})")
    settings = {
        "format": FORMAT,
        "source": given.name,
        "fingerprint": None if isinstance(given, Stream) else fingerprint(given),
        "classes": list(given.classes),
        "shard_images": shard_images,
        "shard_gb": shard_gb,
        "shuffle": shuffle,
        "shorter_side": shorter_side,
    }
    with only_process(out, _LOCK, "packs into", "name another folder"):
        shards = _begun(out, settings)
        if not (out / MANIFEST).exists():
            done = sum(entry["images"] + len(entry["bad"]) for entry in shards)
            raw = _of_stream(given) if isinstance(given, Stream) else _of_source(given, shuffle=shuffle)
            with stage("packing", None if isinstance(given, Stream) else len(given), done=done) as update:
                items = _items(islice(raw, done, None), shorter_side)
                item = next(items, None)
                while item is not None:
                    entry, item = _write(out, shards, item, items, (shard_images, round(shard_gb * 1e9)))
                    append_json(out / _DONE, entry)
                    shards.append(entry)
                    done += entry["images"] + len(entry["bad"])
                    update(done)
            _finish(out, settings, shards, getattr(given, "skipped", ()))
        remove(out / _DONE)
        told = read_json(out / MANIFEST)
    counts = {name: told[name] for name in ("images", "bytes")}
    return Packed(folder=out, shards=len(told["shards"]), bad=told["bad_images"], **counts)


def _begun(out: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the shards that an earlier call has finished.

    Raises:
        InputError: The folder has other contents, or shards of other images or settings.
    """
    other = InputError(f"{out}: holds shards of other images or settings; name a new folder")
    if (out / MANIFEST).exists():
        told = read_json(out / MANIFEST, "remove the folder, and pack the images again")
        if {name: told.get(name) for name in settings} != settings:
            raise other
        return []
    lines = read_json_lines(out / _DONE) if (out / _DONE).exists() else []
    for file in sorted(out.iterdir()):
        name = file.name[1:].removesuffix(".tmp") if file.name.endswith(".tmp") else file.name
        if name not in _OURS and not (lines and _SHARD.fullmatch(name)):
            raise InputError(f"{out} is not empty, it holds {file.name!r}; name a new or empty folder")
    if lines and lines[0] != settings:
        raise other
    whole = []
    for entry in lines[1:]:
        file = out / str(entry.get("shard"))
        if not entry.keys() >= _KEYS.keys() or not file.is_file() or file.stat().st_size != entry["bytes"]:
            break
        whole.append(entry)
    write_atomically(out / _DONE, b"".join(f"{json.dumps(line)}\n".encode() for line in (settings, *whole)))
    return whole


def _of_source(source: Source, *, shuffle: bool) -> Iterator[_Raw]:
    order = np.random.default_rng(0).permutation(len(source)) if shuffle else np.arange(len(source))
    for index in order.tolist():
        label = -1 if source.labels is None else int(source.labels[index])
        yield _Raw(source.ids[index], label, partial(_stored, source, index), partial(_image, source, index))


def _stored(source: Source, index: int) -> bytes | Path | None:
    return image_file(source, index) or image_bytes(source, index)


def _image(source: Source, index: int, side: int | None) -> NDArray[np.uint8]:
    return source.image(index, min_side=side)


def _of_stream(stream: Stream) -> Iterator[_Raw]:
    rows = iter(stream)
    for number in count():
        image_id = f"{stream.name}/{number:09d}"
        try:
            value, label = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"{image_id}: the data set raises {type(error).__name__}: {error}; fix it and call again"
            ) from error
        stored = value if isinstance(value, (bytes, Path)) else None
        yield _Raw(image_id, as_label(label), partial(_given, stored), partial(_decoded, value, image_id))


def _given(stored: bytes | Path | None) -> bytes | Path | None:
    return stored


def _decoded(value: Any, image_id: str, side: int | None) -> NDArray[np.uint8]:
    if isinstance(value, (bytes, Path)):
        return decode_image(value, image_id=image_id, min_side=side)
    return as_pixels(value, image_id)


def _items(images: Iterable[_Raw], shorter_side: int | None) -> Iterator[_Item | BadImage]:
    for image in images:
        try:
            yield _Item(image.id, *_encoded(image, shorter_side), _label(image.label))
        except BadImageError as error:
            yield BadImage(error.image_id, error.reason, counted=True)


def _label(label: Any) -> tuple[str, bytes] | None:
    """The tar member that holds a label: `.cls` for a number, as in WebDataset, and `.json` for a name."""
    if isinstance(label, str):
        return ".json", json.dumps({"label": label}).encode()
    return None if label is None or label < 0 else (".cls", str(int(label)).encode())


def _encoded(image: _Raw, shorter_side: int | None) -> tuple[bytes, str]:
    """The bytes of an image, and the matching file extension.

    Raises:
        BadImageError: The header is not that of an image, or the image must be decoded and cannot be.
    """
    stored = image.stored()
    if stored is None:
        return _as_file(image.decode(None), "PNG"), ".png"
    header = read_header(stored, image_id=image.id)
    if shorter_side is not None and min(header.width, header.height) > shorter_side:
        pixels = image.decode(shorter_side)
        scale = shorter_side / min(pixels.shape[:2])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        return _as_file(np.asarray(small), "JPEG", quality=_QUALITY, subsampling=0), ".jpg"
    try:
        return stored if isinstance(stored, bytes) else stored.read_bytes(), ENDINGS[header.format][0]
    except OSError as error:
        raise BadImageError(image.id, error.strerror or str(error)) from error


def _as_file(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _write(
    out: Path,
    before: list[dict[str, Any]],
    item: _Item | BadImage | None,
    items: Iterator[_Item | BadImage],
    most: tuple[int, int],
) -> tuple[dict[str, Any], _Item | BadImage | None]:
    """Write the next shard, with at most the numbers of images and bytes in `most`.

    Returns:
        The contents of the shard, and the first item that did not fit.
    """
    name, first = f"shard-{len(before):06d}.tar", sum(entry["images"] for entry in before)
    ids: list[str] = []
    bad: list[BadImage] = []
    digest, size, end = hashlib.sha256(), 0, bytes(2 * tarfile.BLOCKSIZE)
    with streamed(out / name) as file:
        while item is not None:
            if isinstance(item, BadImage):
                bad.append(item)
            else:
                data = _members(f"{first + len(ids):09d}", item)
                if ids and (len(ids) >= most[0] or size + len(data) + len(end) > most[1]):
                    break
                file.write(data)
                digest.update(data)
                size += len(data)
                ids.append(item.id)
            item = next(items, None)
        file.write(end)
        digest.update(end)
    told = {"images": len(ids), "bytes": size + len(end), "sha256": digest.hexdigest(), "first": first, "ids": ids}
    return {"shard": name, **told, "bad": [(image.id, image.reason) for image in bad]}, item


def _members(key: str, item: _Item) -> bytes:
    """Tar members of an image and its label. They do not depend on the time or the user."""
    parts = []
    for ending, data in ((item.ending, item.data), *([item.label] if item.label else [])):
        info = tarfile.TarInfo(key + ending)
        info.size = len(data)
        parts += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)]
    return b"".join(parts)


def _finish(out: Path, settings: Mapping[str, Any], shards: list[dict[str, Any]], skipped: Iterable[BadImage]) -> None:
    """Write the manifest, and the list of the images that were left out.

    Raises:
        InputError: The shards contain no image.
    """
    bad = [
        *skipped,
        *(BadImage(image_id, reason, counted=True) for entry in shards for image_id, reason in entry["bad"]),
    ]
    write_bad_images(out / _BAD, bad)
    images = sum(entry["images"] for entry in shards)
    if not images:
        raise InputError(f"{settings['source']}: none of its images can be packed; {out / _BAD} has the reasons")
    told = {
        **settings,
        "images": images,
        "bytes": sum(entry["bytes"] for entry in shards),
        "bad_images": len(bad),
        "shards": {
            entry["shard"]: {name: entry[name] for name in ("images", "bytes", "sha256", "first", "ids")}
            for entry in shards
        },
    }
    write_json(out / MANIFEST, with_checksum(told))
