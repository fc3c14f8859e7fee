"""Write features to Parquet files for other tools, by one or several processes."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from sdclr.choices import Amp
from sdclr.config import to_json
from sdclr.data.changes import image_versions
from sdclr.data.scan import write_bad_images
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.decoding.decode import BadImage
from sdclr.encoders import Preprocessing
from sdclr.encoders.digest import network_digest
from sdclr.errors import InputError
from sdclr.evaluation.embedded_before import Before, keep_images, read_before
from sdclr.evaluation.evaluate import branch_encoder
from sdclr.features.embeddings import ABOUT, SHARDS
from sdclr.features.extract import FeatureBatch, encode_batch, evaluating, feature_batches, settled_amp
from sdclr.files import (
    make_folder,
    open_table,
    parquet_bytes,
    parsing,
    read_table,
    remove,
    require_space,
    sealed,
    streamed,
    write_atomically,
)
from sdclr.files.parquet import CHECKED
from sdclr.precision import autocast_dtype
from sdclr.progress import reporting_to, stage, tell
from sdclr.training.distributed import Processes, one_job, processes
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder

CHUNK: Final = 8192
"""Approximate number of images whose features are in memory, and lost if the process ends before they are written."""

_BAD: Final = b"sdclr-bad"
_EMBED: Final = "run `sdclr embed` again"


def check_embeddings_name(out: Path) -> None:
    """Raise an error if the name of the output is not that of a Parquet file or a folder.

    Raises:
        InputError: The name has another suffix.
    """
    if not out.is_dir() and out.suffix.lower() not in {"", ".parquet"}:
        raise InputError(f"{out}: embeddings are written as Parquet: give a name that ends in .parquet, or a folder")


def embed(
    images: ImageSource,
    out: str | Path,
    *,
    encoder: EncoderLike = None,
    image_size: int | None = None,
    branch: Literal["dense", "sparse"] = "dense",
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    workers: int = 0,
    amp: Amp = "none",
) -> tuple[int, list[BadImage]]:
    """Write Parquet with the columns `id`, `embedding` (list of D float32) and, if known, `label`.

    The output is a file or a folder. In a folder every process writes one shard, `embeddings-00000-of-00002.parquet`;
    the shards in order contain the images in order. Start several processes with torchrun, each with its own device.

    Features are written in chunks to a hidden folder next to the output and combined at the end, so memory does not
    grow with the number of images. After an interruption the same call continues with the existing chunks. If the
    output file exists and comes from the same encoder, embeddings of unchanged images are reused, by a hidden list.

    Args:
        images: The images. Unreadable ones are left out and listed in a CSV file: `bad_images.csv` in the folder, or
            `NAME.bad_images.csv` next to the file `NAME.parquet`.
        out: The file, whose name ends in `.parquet`; or the folder, if the name has no suffix or the folder exists.
            Parent folders are created. Files are replaced as a whole.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`); by
            default the pretrained encoder of `load_encoder()`.
        image_size: Side of the view in pixels, for pretrained encoders that accept more than one size.
        branch: The encoder, or the pruned twin of a run's encoder.
        batch_size: Images per forward pass.
        device: Device of the encoder.
        workers: Number of decoding processes per process.
        amp: Precision of the forward pass; `auto` uses bfloat16 if it is clearly faster (as timed on a CPU).

    Returns:
        The number of rows, and the unreadable images, over all processes.

    Raises:
        InputError: If no image can be decoded, the name has another suffix, several processes would write one file,
            or another job writes there.

    Examples:
        >>> sdclr.embed("images", "embeddings.parquet", encoder="runs/digits")
        (60, [])
        >>> sdclr.neighbors("embeddings.parquet", ["circle/00.jpg"], k=1).rows[0].id
        'circle/29.jpg'
    """
    source, out = open_source(images), Path(out)
    check_embeddings_name(out)
    resolved = resolve_encoder(encoder, source, image_size=image_size)
    sharded = out.is_dir() or not (out.suffix or out.exists())
    with processes(str(device)) as place, ExitStack() as until_written:
        if place.world > 1 and not sharded:
            raise InputError(f"{place.world} processes cannot write the one file {out}: name a folder")
        network = branch_encoder(resolved, branch)
        amp = place.broadcast(
            settled_amp(amp, network, resolved.preprocessing.image_size, place.device) if place.first else amp
        )
        about = _described(resolved, source, network, branch=branch, amp=amp, place=place)
        parts = (out if sharded else out.parent) / f".{out.name}.parts"
        alone = place.world == 1 and not sharded
        versions = image_versions(source)  # part of the chunk's name: a replaced image gives a new chunk
        before = read_before(out, source, versions, about) if alone else None
        work = _Work(network, source, resolved.preprocessing, batch_size, workers, amp, about, parts, before, versions)
        until_written.enter_context(one_job(place, parts, ".embedding", "writes into", "name another place with --out"))
        chunks = work.run(place)
        found = [_about_chunk(chunk) for chunk in chunks]
        bad = [image for share in place.gather([image for _, images in found for image in images]) for image in share]
        rows = sum(place.gather(sum(count for count, _ in found)))
        if not rows:
            why = f"; the first: {bad[0].id}: {bad[0].reason}" if bad else ""
            raise InputError(
                f"{source.name}: none of {len(source)} images can be decoded{why}. Check the path and the files"
            )
        _put_together(chunks, out / _shard(place.rank, place.world) if sharded else out, work.schema())
        place.barrier()  # chunks are removed only after all processes are done
        if place.first:
            if alone:
                keep_images(out, source, versions, {image.id for image in bad})
            _clear(out, parts, shards=place.world if sharded else None)
            listed = out / "bad_images.csv" if sharded else out.with_name(f"{out.stem}.bad_images.csv")
            if bad:
                write_bad_images(listed, bad)
            else:
                remove(listed)
    return rows, bad


class _Work(NamedTuple):
    """Inputs and settings of all chunks."""

    encoder: nn.Module
    source: Source
    preprocessing: Preprocessing
    batch_size: int
    workers: int
    amp: Amp
    about: dict[str, Any]
    parts: Path
    before: Before | None
    """An existing file, whose embeddings of unchanged images are reused."""
    versions: NDArray[np.int64]
    """(N,) versions of the images, taken before images are read."""

    def schema(self) -> pa.Schema:
        """The columns of chunks and output files."""
        columns = {"id": pa.string(), "embedding": pa.list_(pa.float32(), self.about["features"])}
        if self.source.labels is not None:
            columns["label"] = pa.int64()
        return pa.schema(columns, metadata={ABOUT: json.dumps(self.about)})

    def run(self, place: Processes) -> list[Path]:
        """Write the missing chunks of this process, and return all of its chunks in order."""
        # The name contains settings, positions and image versions, so that other chunks are never used by mistake.
        key = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]
        grid = self._grid(place.world)
        share = [len(grid) * rank // place.world for rank in (place.rank, place.rank + 1)]
        files = {
            chunk: self.parts
            / f"{key}-{chunk.start}-{chunk.stop}-{crc32(self.versions[chunk.start : chunk.stop].data):08x}.parquet"
            for chunk in grid[slice(*share)]
        }
        missing = [chunk for chunk, file in files.items() if not _is_whole(file)]
        total = sum(map(len, files))
        done = total - sum(map(len, missing))
        make_folder(self.parts)
        # Space for the missing chunks and the combined file.
        rows = sum(map(len, missing)) + total
        require_space(self.parts, rows * self.about["features"] * np.dtype(np.float32).itemsize)
        listens = nullcontext() if place.first else reporting_to(None)
        with listens, stage("reading images", total, done=done) as update:
            if self.before is not None:
                for chunk in missing:
                    read = self._batches(self.before.unread(chunk), place.device)
                    self._write([*self.before.batches(chunk), *read], files[chunk])
                    done += len(chunk)
                    update(done)
                return list(files.values())
            for run in _runs(missing):
                held: list[FeatureBatch] = []
                ends = {chunk.stop - run[0].start: chunk for chunk in run}
                for batch in self._batches(range(run[0].start, run[-1].stop), place.device):
                    held.append(batch)
                    if batch.seen in ends:
                        self._write(held, files[ends[batch.seen]])
                        held = []
                    update(done + batch.seen)
                done += run[-1].stop - run[0].start
        return list(files.values())

    def _grid(self, world: int) -> list[range]:
        """Chunks of whole batches, so that batches do not depend on the number of processes."""
        total = len(self.source)
        size = max(1, min(CHUNK, total // world) // self.batch_size) * self.batch_size
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def _batches(self, positions: Sequence[int], device: torch.device) -> Iterator[FeatureBatch]:
        return feature_batches(
            self.encoder,
            self.source,
            preprocessing=self.preprocessing,
            batch_size=self.batch_size,
            device=device,
            amp=self.amp,
            workers=self.workers,
            positions=positions,
        )

    def _write(self, batches: Sequence[FeatureBatch], file: Path) -> None:
        kept = np.concatenate([batch.positions for batch in batches])
        good = [batch.values for batch in batches if len(batch.values)]
        values = np.concatenate(good) if good else np.empty((0, self.about["features"]), dtype=np.float32)
        order = np.argsort(kept)  # reused embeddings come first in `batches`
        kept, values = kept[order], values[order]
        columns = {
            "id": pa.array([_text(self.source.ids[index]) for index in kept.tolist()], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.about["features"]),
        }
        if self.source.labels is not None:
            labels = self.source.labels[kept]
            columns["label"] = pa.array(np.where(labels >= 0, labels, 0), mask=labels < 0)
        bad = [tuple(image) for batch in batches for image in batch.bad]
        schema = self.schema().with_metadata({_BAD: json.dumps(bad)})
        write_atomically(file, parquet_bytes(pa.table(columns, schema=schema), use_dictionary=False))


def _about_chunk(file: Path) -> tuple[int, list[BadImage]]:
    """Number of rows of a chunk, and its unreadable images."""
    with parsing(file, _EMBED), open_table(file, _EMBED) as chunk:
        return chunk.metadata.num_rows, [BadImage(*entry) for entry in json.loads(chunk.schema_arrow.metadata[_BAD])]


def _is_whole(file: Path) -> bool:
    """Whether a chunk exists and is undamaged. A damaged one is reported and removed."""
    if not os.path.lexists(file):
        return False
    try:
        _about_chunk(file)
        read_table(file, _EMBED)
    except InputError as error:
        tell(f"{error}; it is created again now")
        remove(file)
        return False
    return True


def _runs(chunks: Sequence[range]) -> Iterator[list[range]]:
    """Groups of consecutive chunks, so that their images are decoded without a pause in between."""
    run: list[range] = []
    for chunk in chunks:
        if run and run[-1].stop != chunk.start:
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def _described(
    resolved: ResolvedEncoder, source: Source, encoder: nn.Module, *, branch: str, amp: Amp, place: Processes
) -> dict[str, Any]:
    """Description of encoder and images, which tells whether two files belong together."""
    size = resolved.preprocessing.image_size
    with evaluating(encoder, place.device) as device:
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        features = encode_batch(encoder, blank, device, amp=amp).shape[1]
    return {
        "run": resolved.short_name,
        "branch": branch,
        "encoder": network_digest(encoder),
        "image_size": size,
        "preprocessing": to_json(resolved.preprocessing),
        "origin": None if resolved.encoder.origin is None else resolved.encoder.origin.sentence,
        "precision": str(autocast_dtype(amp, place.device) or torch.float32).removeprefix("torch."),
        "features": features,
        "source": source.name,
        "fingerprint": fingerprint(source),
        "labels": source.labels is not None,
    }


def _put_together(chunks: Sequence[Path], out: Path, schema: pa.Schema) -> None:
    """Combine chunks into one file, each as a row group. One chunk is in memory at a time."""
    size = sum(chunk.stat().st_size for chunk in chunks)
    schema = sealed(schema)
    with (
        streamed(out, size=size) as opened,
        pq.ParquetWriter(opened, schema, use_dictionary=False, **CHECKED) as writer,
    ):
        for chunk in chunks:
            table = read_table(chunk, _EMBED)
            if len(table):
                writer.write_table(table.replace_schema_metadata(schema.metadata))


def _clear(out: Path, parts: Path, *, shards: int | None) -> None:
    """Remove the chunks, and shards from an earlier call with another number of processes."""
    remove(parts)
    if shards is not None:
        for file in out.glob(SHARDS):
            if not file.stem.endswith(f"-of-{shards:05d}"):
                remove(file)


def _shard(rank: int, world: int) -> str:
    return f"embeddings-{rank:05d}-of-{world:05d}.parquet"


def _text(image_id: str) -> str:
    """An id that Parquet can store: file names that are not UTF-8 contain lone surrogates."""
    return image_id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
