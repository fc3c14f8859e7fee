"""Memory of large collections and of large images: peak of the process and its workers in each stage.

    python benchmarks/speed/memory_rows.py vectors --count 1000000 --width 64 --out vectors.parquet
    python benchmarks/speed/memory_rows.py mine --vectors vectors.parquet --out mined
    python benchmarks/speed/memory_rows.py embed --count 1000000 --out embeddings.parquet
    python benchmarks/speed/memory_rows.py photos --count 44 --side 12000 --format png --out photos
    python benchmarks/speed/memory_rows.py embed --images photos --workers 2 --out embeddings.parquet

`vectors` draws vectors around 2,000 centers with decreasing weights. `mine` ranks them, with the map and the search for
near-duplicates. `embed` encodes the images of a folder, or digits that a source creates on demand (8 px, so that the
encoder takes no time). Each prints a line of JSON for each stage of a second or more, then the peak: `held` is private
and shared memory of the processes (RssAnon and RssShmem); `resident` also includes pages of memory-mapped files, which
the system frees when it needs memory. Linux only.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

import sdclr
from sdclr.data.annotations import NumberedIds
from sdclr.data.sources import digits
from sdclr.encoders import EncoderConfig
from sdclr.encoders.create import create_encoder
from sdclr.progress import Stage, reporting_to

MIB = 2**20
CENTERS = 2000
CHUNK = 50_000
DIFFERENT = 4
"""Number of different photos; the others are hard links to them."""
SHORT = 1.0
"""Shorter stages, in seconds, get no line."""
BLOCK = 8
"""Side in pixels of a photo's random blocks, because noise per pixel would not compress."""


def make_vectors(count: int, width: int, out: Path) -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CENTERS, width)).astype(np.float32)
    weights = 1 / np.arange(1, CENTERS + 1)
    vectors = pa.list_(pa.float32(), width)
    with pq.ParquetWriter(out, pa.schema({"id": pa.string(), "embedding": vectors})) as writer:
        for begin in range(0, count, CHUNK):
            rows = min(CHUNK, count - begin)
            kinds = rng.choice(CENTERS, size=rows, p=weights / weights.sum())
            values = centers[kinds] + 0.6 * rng.normal(size=(rows, width)).astype(np.float32)
            ids = [f"{row:07}.jpg" for row in range(begin, begin + rows)]
            embedding = pa.FixedSizeListArray.from_arrays(values.ravel(), type=vectors)
            writer.write(pa.table({"id": ids, "embedding": embedding}))


def make_photos(count: int, side: int, suffix: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        if number >= DIFFERENT:
            os.link(out / f"{number % DIFFERENT:03d}.{suffix}", out / f"{number:03d}.{suffix}")
            continue
        small = rng.integers(0, 256, size=(-(-side // BLOCK), -(-side // BLOCK), 3), dtype=np.uint8)
        pixels = np.repeat(np.repeat(small, BLOCK, axis=0), BLOCK, axis=1)[:side, :side]
        Image.fromarray(pixels).save(out / f"{number:03d}.{suffix}")


class ManyDigits:
    """Any number of digits, created on demand."""

    def __init__(self, count: int) -> None:
        self.name = "digits"
        self.ids: Sequence[str] = NumberedIds("digits", count)
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        self._digits = digits("train")

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        shift = np.uint8(index // len(self._digits) % 256)
        return self._digits.image(index % len(self._digits), min_side=min_side) + shift


class Watch:
    """Samples memory, and prints a line for each stage."""

    def __init__(self) -> None:
        self.held = self.resident = self.stage_held = self.stage_resident = 0.0
        self._begun: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            held, resident = memory()
            self.held, self.resident = max(self.held, held), max(self.resident, resident)
            self.stage_held = max(self.stage_held, held)
            self.stage_resident = max(self.stage_resident, resident)

    def begin(self, stage: Stage) -> None:
        self._begun[id(stage)] = time.time()
        self.stage_held, self.stage_resident = memory()

    def update(self, stage: Stage) -> None:
        pass

    def end(self, stage: Stage) -> None:
        seconds = time.time() - self._begun.pop(id(stage))
        if seconds >= SHORT:
            say(stage.name, self.stage_held, self.stage_resident, seconds)
        self.stage_held, self.stage_resident = memory()

    def tell(self, text: str) -> None:
        pass

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def memory() -> tuple[float, float]:
    """Held and resident MiB of this process and its children. Shared memory counts once."""
    processes = [os.getpid(), *children(os.getpid())]
    own = [status(process) for process in processes]
    shared = max(one["RssShmem"] for one in own)
    held = sum(one["RssAnon"] for one in own) + shared
    return held / 1024, (held + max(one["RssFile"] for one in own)) / 1024


def children(process: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        try:
            found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:  # the thread has ended
            continue
    return found


def status(process: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        lines = []
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return dict.fromkeys(("RssAnon", "RssFile", "RssShmem"), 0) | values


def say(what: str, held: float, resident: float, seconds: float) -> None:
    line = {"what": what, "held_mib": round(held), "resident_mib": round(resident), "seconds": round(seconds, 1)}
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vectors", "photos", "mine", "embed"))
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--side", type=int, default=12_000)
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.what == "vectors":
        make_vectors(asked.count, asked.width, asked.out)
        return
    if asked.what == "photos":
        make_photos(asked.count, asked.side, asked.format, asked.out)
        return
    encoder = None if asked.what == "mine" else create_encoder(EncoderConfig(name="resnet20", width=4), 8)
    images = asked.images or ManyDigits(asked.count)
    begun, base = time.time(), memory()
    say("before", *base, 0)
    watch = Watch()
    with reporting_to(watch):
        if asked.what == "mine":
            sdclr.mine(asked.vectors, out=asked.out)
        else:
            sdclr.embed(images, asked.out, encoder=encoder, workers=asked.workers)
    watch.stop()
    say("peak", watch.held, watch.resident, time.time() - begun)


if __name__ == "__main__":
    main()
