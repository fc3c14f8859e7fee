"""One pass over a collection: everything that a network has to say about each image, kept on disk.

The pass goes in chunks. Features lie in one memory-mapped file, what else is known of a chunk in a file of its own,
written when the chunk is done; a stopped pass goes on at the first chunk that has none. Memory therefore does not grow
with the collection, and a reading that is there is not made again.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sdclr.choices import Amp
from sdclr.data.config import ViewConfig
from sdclr.data.decode import prepare_worker
from sdclr.data.render_cv import render_cv_batch
from sdclr.data.sources import Source, fingerprint
from sdclr.data.views import draw_views
from sdclr.encoders import Encoder
from sdclr.encoders.digest import network_digest
from sdclr.encoders.preprocessing import Preprocessing
from sdclr.errors import BadImageError, InputError
from sdclr.fastest import forward_amp
from sdclr.features.inference import for_inference
from sdclr.features.view import decode_side, evaluation_view
from sdclr.files import read_json, write_atomically, write_json
from sdclr.mining.forgetting import Networks, forgetting
from sdclr.precision import autocast_dtype
from sdclr.progress import stage

_CHUNK: Final = 4096
"""Images of a chunk, about: it is a whole number of batches, so that a pass that goes on meets the same batches."""


GUARD: Final = "reading.json"
"""File that says what a folder's reading is of."""
_FEATURES: Final = "features.npy"
_PROJECTIONS: Final = "projections.npy"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a reading holds."""

    preprocessing: Preprocessing
    """Of the evaluation view."""
    views: ViewConfig
    """How augmented views are drawn."""
    forgetting_views: int
    """Views that forgetting is averaged over: the evaluation view, then augmented ones."""
    pairs: int
    """Pairs of augmented views whose projections are kept for the loss."""
    projection: bool
    """Measure forgetting at the projections, too."""
    batch_size: int
    amp: Amp
    seed: int

    @property
    def drawn(self) -> int:
        """Augmented views of each image."""
        return max(self.forgetting_views - 1, 2 * self.pairs)

    @property
    def chunk(self) -> int:
        """Images of a chunk."""
        return max(1, _CHUNK // self.batch_size) * self.batch_size


class Reading(NamedTuple):
    """What was read of N images."""

    features: NDArray[np.float32]
    """(N, D) of the dense encoder on the evaluation view, memory-mapped; nan where an image is bad."""
    columns: dict[str, NDArray[np.float32]]
    """(N,) forgetting by name, nan where an image is bad."""
    projections: NDArray[np.float32] | None
    """(N, pairs, 2, H) of the two branches, memory-mapped; None without pairs."""
    bad: dict[str, str]
    """Reason by id."""
    usable: NDArray[np.int64]
    """Positions of the images that are not bad."""


class _Item(NamedTuple):
    position: int
    views: NDArray[np.uint8] | None
    """(1 + drawn, S, S, 3): the evaluation view and the augmented ones; None if the image cannot be decoded."""
    reason: str


class _Batch(NamedTuple):
    positions: NDArray[np.int64]
    views: Tensor
    """(1 + drawn, B, 3, S, S) uint8, of the usable images."""
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
    """Read every image once, or go on where a pass was stopped.

    Args:
        source: The images. Those that cannot be decoded are flagged.
        encoder: The dense encoder.
        states: Networks that forgetting is measured by, averaged over states; the first also gives the projections.
            May be empty if neither is asked.
        plan: What is read.
        folder: Where it is kept. What lies there from another source, network or plan is replaced.
        device: Where the networks run.
        workers: Processes that decode; 0 decodes in this one.

    Returns:
        The reading, its large parts memory-mapped.

    Raises:
        InputError: If no image can be decoded.
    """
    for module in (encoder, *(network for state in states for network in (state.dense, state.second))):
        module.to(device).eval()
    for state in states:
        for network in state.pruned.values():
            network.to(device).eval()
    reader = _Reader(encoder, states, plan, device)
    columns = reader.columns()
    total = len(source)
    _settle(folder, source, reader)
    features = _table(folder / _FEATURES, (total, encoder.num_features))
    projections = _table(folder / _PROJECTIONS, (total, plan.pairs, 2, reader.projected())) if plan.pairs else None
    done = min(len(_chunks(folder)) * plan.chunk, total)
    with stage("reading images", total, done=done) as update:
        for batches in _by_chunk(source, plan, done, workers):
            begin = done
            end = min(begin + plan.chunk, total)
            values = np.full((end - begin, len(columns)), np.nan, dtype=np.float32)
            bad: list[tuple[int, str]] = []
            for batch in batches:
                bad.extend(batch.bad)
                features[[position for position, _ in batch.bad]] = np.nan
                if len(batch.positions):
                    found = reader(batch.views)
                    features[batch.positions] = found.features
                    values[batch.positions - begin] = found.values
                    if projections is not None:
                        projections[batch.positions] = found.projections
                done = min(done + plan.batch_size, total)
                update(done)
            features.flush()
            if projections is not None:
                projections.flush()
            _write_chunk(folder, begin // plan.chunk, values, bad)
    return _collected(folder, source, columns, features, projections)


class _Found(NamedTuple):
    features: NDArray[np.float32]
    values: NDArray[np.float32]
    projections: NDArray[np.float32] | None


class _Reader:
    """Looks at one batch after the other."""

    def __init__(self, encoder: Encoder, states: Sequence[Networks], plan: Plan, device: torch.device) -> None:
        self.encoder, self.states, self.plan, self.device = encoder, states, plan, device
        self.network = encoder if states else for_inference(encoder)  # pruned copies need the encoder as it is
        shape = (3, plan.views.image_size, plan.views.image_size)
        self.dtype = autocast_dtype(forward_amp(plan.amp, self.network, shape, device), device)

    def columns(self) -> list[str]:
        """Names of what `__call__` measures, in order."""
        ratios = self.states[0].pruned if self.states else {}
        names = [f"forgetting_{ratio:g}" for ratio in ratios]
        return names + [f"forgetting_projection_{ratio:g}" for ratio in ratios if self.plan.projection]

    def projected(self) -> int:
        """Width of a projection."""
        size = self.plan.views.image_size
        blank = torch.zeros(1, 1, 3, size, size, dtype=torch.uint8)
        return self._run(self.states[0].dense, blank[0]).shape[1]

    def identity(self) -> dict[str, Any]:
        """What decides the values, as plain JSON."""
        modules = [self.encoder, *(m for s in self.states for m in (s.dense, s.second, *s.pruned.values()))]
        return {
            "networks": network_digest(*modules),
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
        """(N, pairs, 2, H), each view by the branch that sees it in training."""
        if not self.plan.pairs:
            return None
        branches = (self.states[0].dense, self.states[0].second)
        parts = [self._run(branches[n % 2], views[1 + n]) for n in range(2 * self.plan.pairs)]
        stacked: NDArray[np.float32] = torch.stack(parts, dim=1).cpu().numpy()
        return stacked.reshape(len(stacked), self.plan.pairs, 2, -1)

    def _run(self, module: nn.Module, inputs: Tensor) -> Tensor:
        floats = inputs.to(self.device, non_blocking=True)
        if floats.dtype == torch.uint8:
            # One memory layout whatever the images come from, so that values do not depend on it in the last bit.
            floats = floats.contiguous().float().div_(255.0)
        enabled = self.dtype is not None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled):
            outputs: Tensor = module(floats)
        return outputs.float()


class _Views(Dataset[_Item]):
    """The views of one image, or why there are none."""

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


def _by_chunk(source: Source, plan: Plan, start: int, workers: int) -> Iterator[list[_Batch] | Iterator[_Batch]]:
    """The batches of each chunk from `start` on; workers decode ahead over the chunks' borders."""
    loader: DataLoader[_Item] = DataLoader(
        _Views(source, plan),
        sampler=range(start, len(source)),
        batch_size=plan.batch_size,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=prepare_worker,
    )
    batches: Iterator[_Batch] = iter(loader)
    for begin in range(start, len(source), plan.chunk):
        images = min(plan.chunk, len(source) - begin)
        yield (next(batches) for _ in range(-(-images // plan.batch_size)))


def is_read(
    source: Source, encoder: Encoder, states: Sequence[Networks], plan: Plan, folder: Path, *, device: torch.device
) -> bool:
    """Whether `read_collection` would find all images read in the folder. Arguments are those of that."""
    reader = _Reader(encoder, states, plan, device)
    chunks = -(-len(source) // plan.chunk)
    return _held(folder, reader, _wanted(source, reader)) and len(_chunks(folder)) == chunks


def _wanted(source: Source, reader: _Reader) -> dict[str, Any]:
    """What a reading is known by."""
    return {"source": fingerprint(source), "images": len(source), **reader.identity()}


def _held(folder: Path, reader: _Reader, wanted: dict[str, Any]) -> bool:
    """Whether what lies in the folder was begun for the same images, networks and plan."""
    tables = [_FEATURES] + [_PROJECTIONS] * bool(reader.plan.pairs)
    if not all((folder / name).is_file() for name in (GUARD, *tables)):
        return False
    try:
        return bool(read_json(folder / GUARD) == wanted)
    except InputError:
        return False  # a damaged guard guards nothing


def _settle(folder: Path, source: Source, reader: _Reader) -> None:
    """Empty the folder unless what it holds was begun for the same images, networks and plan."""
    wanted = _wanted(source, reader)
    if _held(folder, reader, wanted):
        return
    for name in (GUARD, _FEATURES, _PROJECTIONS):
        (folder / name).unlink(missing_ok=True)
    for chunk in folder.glob("chunk-*.npz"):
        chunk.unlink()
    write_json(folder / GUARD, wanted)


def _table(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.float32]]":
    """A memory-mapped array: the one that is there, or a new one."""
    return np.lib.format.open_memmap(path, mode="r+" if path.is_file() else "w+", dtype=np.float32, shape=shape)


def _chunks(folder: Path) -> list[Path]:
    """The files of the finished chunks, without a gap from the first on."""
    paths: list[Path] = []
    while (path := folder / f"chunk-{len(paths):06d}.npz").is_file():
        paths.append(path)
    return paths


def _write_chunk(folder: Path, number: int, values: NDArray[np.float32], bad: Sequence[tuple[int, str]]) -> None:
    positions = np.array([position for position, _ in bad], dtype=np.int64)
    reasons = np.array(json.dumps([reason for _, reason in bad]))
    buffer = io.BytesIO()
    np.savez(buffer, values=values, bad=positions, reasons=reasons)
    write_atomically(folder / f"chunk-{number:06d}.npz", buffer.getbuffer())


def _collected(
    folder: Path,
    source: Source,
    columns: Sequence[str],
    features: NDArray[np.float32],
    projections: NDArray[np.float32] | None,
) -> Reading:
    values: list[NDArray[np.float32]] = []
    bad: dict[int, str] = {}
    for path in _chunks(folder):
        with np.load(path) as chunk:
            values.append(chunk["values"])
            bad |= dict(zip(chunk["bad"].tolist(), json.loads(str(chunk["reasons"])), strict=True))
    if len(bad) == len(source):
        position, reason = next(iter(bad.items()))
        raise InputError(
            f"{source.name}: none of {len(source)} images can be decoded; the first: {source.ids[position]}: {reason}. "
            "Check the path and the files"
        )
    joined = np.concatenate(values)
    usable = np.setdiff1d(np.arange(len(source)), np.array(list(bad), dtype=np.int64))
    return Reading(
        features,
        {name: joined[:, number] for number, name in enumerate(columns)},
        projections,
        {source.ids[position]: reason for position, reason in sorted(bad.items())},
        usable,
    )
