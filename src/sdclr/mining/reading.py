"""One pass over a collection: all outputs of a network for each image, stored on disk.

The pass works in chunks. Features are in one memory-mapped file. Other data of a chunk are in a separate file with
checksums of its features, written when the chunk is done. A stopped or damaged pass reads the images of chunks without
a valid file again. Memory does not grow with the collection, and an existing reading is reused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from sdclr.choices import Amp
from sdclr.config import to_json
from sdclr.data.changes import image_versions
from sdclr.data.sources import Source
from sdclr.decoding.workers import WorkerBatches
from sdclr.encoders import Encoder
from sdclr.encoders.digest import network_digest
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.errors import BadImageError, DamagedFileError, InputError
from sdclr.fastest import forward_amp
from sdclr.features.inference import for_inference, run_in_pieces
from sdclr.features.view import decode_side, evaluation_view
from sdclr.files import remove
from sdclr.mining.forgetting import Networks, forgetting
from sdclr.mining.growing import begin_reading, carried, described, earlier, known_images, not_held
from sdclr.mining.kept import (
    FEATURES,
    PROJECTIONS,
    checksum,
    chunk_file,
    held,
    open_tables,
    read_chunk,
    write_chunk,
)
from sdclr.out_of_memory import enough_memory
from sdclr.precision import autocast_dtype
from sdclr.progress import stage, tell
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render_cv import render_cv_batch
from sdclr.visible import counted

_CHUNK: Final = 4096
"""Approximate images per chunk. A chunk is a whole number of batches, so a resumed pass has the same batches."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Contents of a reading."""

    preprocessing: Preprocessing
    """Preprocessing of the evaluation view."""
    views: ViewConfig
    """Settings of augmented views."""
    forgetting_views: int
    """Number of views that forgetting is averaged over: the evaluation view, then augmented ones."""
    pairs: int
    """Number of pairs of augmented views whose projections are stored for the loss."""
    projection: bool
    """Also measure forgetting at the projections."""
    batch_size: int
    amp: Amp
    seed: int

    @property
    def drawn(self) -> int:
        """Augmented views per image."""
        return max(self.forgetting_views - 1, 2 * self.pairs)

    @property
    def chunk(self) -> int:
        """Images per chunk."""
        return max(1, _CHUNK // self.batch_size) * self.batch_size


class Reading(NamedTuple):
    """Network outputs of N images."""

    features: NDArray[np.float32]
    """(N, D) of the dense encoder on the evaluation view, memory-mapped; nan for bad images."""
    columns: dict[str, NDArray[np.float32]]
    """(N,) forgetting by name, nan for bad images."""
    projections: NDArray[np.float32] | None
    """(N, pairs, 2, H) of the two branches, memory-mapped; None without pairs."""
    bad: dict[str, str]
    """Reason by id."""
    usable: NDArray[np.int64]
    """Positions of the images that are not bad."""
    since: NDArray[np.int64] | None = None
    """(N,) seconds since 1970 when each image was added or changed; 0 for those of the first call."""


class _Item(NamedTuple):
    position: int
    views: NDArray[np.uint8] | None
    """(1 + drawn, S, S, 3): the evaluation view and the augmented ones; None if the image cannot be decoded."""
    reason: str


class _Batch(NamedTuple):
    positions: NDArray[np.int64]
    views: Tensor
    """(1 + drawn, B, 3, S, S) uint8 views of the usable images."""
    bad: list[tuple[int, str]]


def read_collection(
    source: Source,
    encoder: Encoder,
    states: Sequence[Networks],
    plan: Plan,
    folder: Path,
    *,
    device: torch.device,
    workers: int = 0,
) -> Reading:
    """Read every image once, or resume a stopped pass.

    Args:
        source: The images. Those that cannot be decoded are flagged.
        encoder: The dense encoder.
        states: Networks for forgetting, which is averaged over states; the first one also gives the projections. May be
            empty if neither is needed.
        plan: Contents of the reading.
        folder: Folder of the reading. Data of another source, network or plan there are replaced.
        device: Device of the networks.
        workers: Number of decoding processes; 0 decodes in this process.

    Returns:
        The reading, with memory-mapped features and projections.

    Raises:
        InputError: No image can be decoded.
    """
    for module in (encoder, *(network for state in states for network in (state.dense, state.second))):
        module.to(device).eval()
    for state in states:
        for network in state.pruned.values():
            network.to(device).eval()
    reader = _Reader(encoder, states, plan, device)
    columns, shapes = reader.columns(), reader.tables(len(source))
    versions = image_versions(source)  # before reading images, so that the next call notices changes made meanwhile
    wanted = described(source, versions) | reader.identity()
    stock = begin_reading(source, versions, wanted, shapes, folder)
    tables, missing = open_tables(folder, shapes, plan.chunk, len(columns))
    known = carried(
        source.ids, versions, folder, wanted, shapes, chunk=plan.chunk, columns=len(columns), drawn=plan.drawn > 0
    )
    unread = [not_held(chunk, known) for chunk in missing]
    left = sum(map(len, unread))
    if any(stock.grown):
        tell(stock.grown.line(len(source), left))
    done, stored = len(source) - left, len(source) - sum(map(len, missing))
    # Other steps, such as stacking the views of a batch, also need memory per batch.
    with enough_memory(plan.batch_size), stage("reading images", len(source), done=done) as update:
        try:
            for chunk, batches in zip(missing, _by_chunk(source, plan, unread, workers), strict=True):
                begin, end = chunk.start, chunk.stop
                values = np.full((end - begin, len(columns)), np.nan, dtype=np.float32)
                bad = [entry for part in known for entry in part.into(begin, tables, values)]
                for batch in batches:
                    bad.extend(batch.bad)
                    reader.into(batch, begin, tables, values)
                    done += len(batch.positions) + len(batch.bad)
                    update(done)
                for table in tables:
                    table.flush()
                checksums = [checksum(table[begin:end]) for table in tables]
                write_chunk(chunk_file(folder, begin // plan.chunk), values, bad, checksums)
                stored += len(chunk)
        except (KeyboardInterrupt, SystemExit) as stop:
            stop.add_note(f"the features of {stored:,} of {counted(len(source))} are stored")
            raise
    for place in earlier(folder):
        remove(place)
    files = [chunk_file(folder, number) for number in range(-(-len(source) // plan.chunk))]
    return _collected(files, source, columns, tables)._replace(since=stock.since)


class _Found(NamedTuple):
    features: NDArray[np.float32]
    values: NDArray[np.float32]
    projections: NDArray[np.float32] | None


class _Reader:
    """Computes the outputs of one batch after another."""

    def __init__(self, encoder: Encoder, states: Sequence[Networks], plan: Plan, device: torch.device) -> None:
        self.encoder, self.states, self.plan, self.device = encoder, states, plan, device
        self.network = encoder if states else for_inference(encoder)  # pruned copies need the unchanged encoder
        shape = (3, plan.views.image_size, plan.views.image_size)
        self.dtype = autocast_dtype(forward_amp(plan.amp, self.network, shape, device), device)

    def columns(self) -> list[str]:
        """Names of the values that `__call__` measures, in order."""
        ratios = self.states[0].pruned if self.states else {}
        names = [f"forgetting_{ratio:g}" for ratio in ratios]
        return names + [f"forgetting_projection_{ratio:g}" for ratio in ratios if self.plan.projection]

    def tables(self, images: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the float32 tables by file name."""
        shapes: dict[str, tuple[int, ...]] = {FEATURES: (images, self.encoder.num_features)}
        if self.plan.pairs:
            shapes[PROJECTIONS] = (images, self.plan.pairs, 2, self._projected())
        return shapes

    def _projected(self) -> int:
        """Width of a projection."""
        size = self.plan.views.image_size
        blank = torch.zeros(1, 1, 3, size, size, dtype=torch.uint8)
        return self._run(self.states[0].dense, blank[0]).shape[1]

    def identity(self) -> dict[str, Any]:
        """Everything that determines the values, as JSON values."""
        modules = [self.encoder, *(m for s in self.states for m in (s.dense, s.second, *s.pruned.values()))]
        return {
            "networks": network_digest(*modules),
            "encoder": network_digest(self.encoder),
            "preprocessing": to_json(self.plan.preprocessing),
            "columns": self.columns(),
            "plan": repr(self.plan),
            "precision": str(self.dtype),
            "device": self.device.type,
        }

    def __call__(self, views: Tensor) -> _Found:
        features = self._run(self.network, views[0])
        sums = [torch.zeros(len(features), device=self.device) for _ in self.columns()]
        for state in self.states if sums else ():
            for number in range(self.plan.forgetting_views):
                known = number == 0 and state.dense.encoder is self.encoder
                dense = features if known else self._run(state.dense.encoder, views[number])
                found = self._forgetting(state, dense, views[number])
                sums = [total + value for total, value in zip(sums, found, strict=True)]
        seen = self.plan.forgetting_views * max(1, len(self.states))
        values = torch.stack(sums, dim=1) / seen if sums else torch.empty(len(features), 0)
        return _Found(features.cpu().numpy(), values.cpu().numpy(), self._projections(views))

    def into(
        self, batch: _Batch, begin: int, tables: Sequence[NDArray[np.float32]], values: NDArray[np.float32]
    ) -> None:
        """Write the outputs of a batch into the tables, and into the values of the chunk that starts at `begin`."""
        useless = [position for position, _ in batch.bad]
        for table, empty in zip(tables, (np.nan, 0), strict=False):
            table[useless] = empty
        if len(batch.positions):
            found = self(batch.views)
            values[batch.positions - begin] = found.values
            for table, rows in zip(tables, (found.features, found.projections), strict=False):
                table[batch.positions] = rows

    def _forgetting(self, state: Networks, dense: Tensor, view: Tensor) -> list[Tensor]:
        """(N,) each, in the order of `columns`, from the dense network's features of a view."""
        pruned = [self._run(network.encoder, view) for network in state.pruned.values()]
        found = [forgetting(dense, features) for features in pruned]
        if self.plan.projection:
            projection = self._run(state.dense.head, dense)
            heads = [network.head for network in state.pruned.values()]
            found += [forgetting(projection, self._run(head, f)) for head, f in zip(heads, pruned, strict=True)]
        return found

    def _projections(self, views: Tensor) -> NDArray[np.float32] | None:
        """(N, pairs, 2, H), each view by its branch in training."""
        if not self.plan.pairs:
            return None
        branches = (self.states[0].dense, self.states[0].second)
        parts = [self._run(branches[n % 2], views[1 + n]) for n in range(2 * self.plan.pairs)]
        stacked: NDArray[np.float32] = torch.stack(parts, dim=1).cpu().numpy()
        return stacked.reshape(len(stacked), self.plan.pairs, 2, -1)

    def _run(self, module: nn.Module, inputs: Tensor) -> Tensor:
        def run(count: int) -> Tensor:
            floats = inputs[:count].to(self.device, non_blocking=True)
            if floats.dtype == torch.uint8:
                # Use the same memory layout for all sources, so that values are bitwise equal.
                floats = floats.contiguous().float().div_(255.0)
            enabled = self.dtype is not None
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled):
                outputs: Tensor = run_in_pieces(module, floats)
            return outputs.float()

        with enough_memory(len(inputs), probe=run):
            return run(len(inputs))


class _Views(Dataset[_Item]):
    """The views of each image, or the reason why it is unreadable."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source, self.plan = source, plan
        self.min_side = decode_side(plan.preprocessing)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> _Item:
        try:
            image = self.source.image(position, min_side=self.min_side)
        except BadImageError as error:
            return _Item(position, None, error.reason)
        size, seed = self.plan.views.image_size, self.plan.seed
        views = np.empty((1 + self.plan.drawn, size, size, 3), dtype=np.uint8)
        views[0] = evaluation_view(image, self.plan.preprocessing)
        for number in range(self.plan.drawn):
            params = draw_views(
                self.plan.views,
                seed=seed,
                epoch=number // 2,
                indices=np.array([position]),
                view=number % 2,
                height=image.shape[0],
                width=image.shape[1],
            )
            render_cv_batch([image], params, views[1 + number : 2 + number])
        return _Item(position, views, "")


def _collate(items: Sequence[_Item]) -> _Batch:
    good = [item.position for item in items if item.views is not None]
    views = [item.views for item in items if item.views is not None]
    bad = [(item.position, item.reason) for item in items if item.views is None]
    stacked = np.stack(views, axis=1) if views else np.empty((1, 0, 1, 1, 3), dtype=np.uint8)
    return _Batch(np.array(good, dtype=np.int64), torch.from_numpy(stacked).permute(0, 1, 4, 2, 3), bad)


def _by_chunk(source: Source, plan: Plan, chunks: Sequence[list[int]], workers: int) -> Iterator[Iterator[_Batch]]:
    """The batches of each chunk's images. Workers decode ahead across chunks."""
    size = plan.batch_size
    batches = [[chunk[at : at + size] for at in range(0, len(chunk), size)] for chunk in chunks]
    loader: WorkerBatches[_Batch] = WorkerBatches(
        _Views(source, plan),
        workers=workers,
        collate_fn=_collate,
        batch_bytes=size * (1 + plan.drawn) * 3 * plan.views.image_size**2,
        batch_sampler=[batch for parts in batches for batch in parts],
    )
    made: Iterator[_Batch] = iter(loader)
    for parts in batches:
        yield (next(made) for _ in parts)


def count_unread(
    source: Source, encoder: Encoder, states: Sequence[Networks], plan: Plan, folder: Path, *, device: torch.device
) -> int:
    """Approximate number of images that `read_collection` would read, without a check for damage. Same arguments."""
    reader = _Reader(encoder, states, plan, device)
    versions = image_versions(source)
    wanted = described(source, versions) | reader.identity()
    try:
        kept = held(folder, wanted, reader.tables(len(source)))
    except DamagedFileError:
        return len(source)
    if not kept:
        return len(source) - known_images(source.ids, versions, folder, wanted)
    starts = range(0, len(source), plan.chunk)
    return sum(min(plan.chunk, len(source) - at) for at in starts if not chunk_file(folder, at // plan.chunk).is_file())


def _collected(
    chunks: Sequence[Path],
    source: Source,
    columns: Sequence[str],
    tables: Sequence[NDArray[np.float32]],
) -> Reading:
    values: list[NDArray[np.float32]] = []
    bad: dict[int, str] = {}
    for path in chunks:
        chunk = read_chunk(path)
        values.append(chunk.values)
        bad |= chunk.bad
    if len(bad) == len(source):
        position, reason = next(iter(bad.items()))
        raise InputError(
            f"{source.name}: none of {len(source)} images can be decoded; the first: {source.ids[position]}: {reason}. "
            "Check the path and the files"
        )
    joined = np.concatenate(values)
    usable = np.setdiff1d(np.arange(len(source)), np.array(list(bad), dtype=np.int64))
    return Reading(
        tables[0],
        {name: joined[:, number] for number, name in enumerate(columns)},
        tables[1] if len(tables) > 1 else None,
        {source.ids[position]: reason for position, reason in sorted(bad.items())},
        usable,
    )
