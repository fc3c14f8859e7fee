"""Distances of new images to old images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdclr.config import to_json
from sdclr.data.intensities import with_intensities
from sdclr.data.sources import ImageSource, Source, image_file, open_source
from sdclr.encoders.digest import network_digest
from sdclr.errors import InputError
from sdclr.features.approximate import find_neighbors
from sdclr.features.embeddings import EmbeddedImages, Embeddings, embedding_files, read_embeddings
from sdclr.features.nearest import Neighbors
from sdclr.files import read_array, read_json
from sdclr.files.alone import only_process
from sdclr.mining.config import MineConfig
from sdclr.mining.growing import images_of
from sdclr.mining.kept import FEATURES, GUARD
from sdclr.mining.kinds import Kinds
from sdclr.mining.neighbors import neighbor_distance
from sdclr.mining.plan import default_folder, networks_of
from sdclr.mining.reading import read_collection
from sdclr.progress import tell
from sdclr.training.resolve import ResolvedEncoder

AGAINST_K: Final = 5
"""Number of nearest old images whose mean distance ranks (docs/results/new_kinds.md)."""
_SAME: Final = 1e-5
"""Maximum cosine distance of two readings of one image, due to rounding."""


class Old(NamedTuple):
    """The older collection."""

    name: str
    ids: Sequence[str]
    """M ids, without unreadable images."""
    files: Sequence[str | None]
    """(M,) their files, None for images without a file."""
    features: Tensor
    """(M, D)."""


def open_old(
    against: ImageSource | Embeddings,
    used: ResolvedEncoder | Embeddings,
    config: MineConfig,
    *,
    folder: Path,
    device: torch.device,
    workers: int = 0,
) -> Old:
    """The features of an older collection, by the encoder of the new collection.

    Args:
        against: Images, embeddings, or the folder of a finished `mine`, whose features are reused.
        used: The encoder or the embeddings of the new images.
        config: The settings.
        folder: The result folder of the new images.
        device: Device of the encoder.
        workers: Number of decoding processes.

    Raises:
        InputError: The old features are of another encoder, or are missing.
    """
    if isinstance(against, (str, Path)) and (Path(against) / "reading" / GUARD).is_file():
        return _of_mine(Path(against), used, device)
    if isinstance(against, Embeddings) or (isinstance(against, (str, Path)) and embedding_files(against)):
        found = against if isinstance(against, Embeddings) else read_embeddings(against)
        _check_same(found.about.get("encoder"), found.about.get("preprocessing"), used, found.name)
        return _old(EmbeddedImages(found), found.values, np.arange(len(found.ids)), device)
    if isinstance(used, Embeddings):
        raise InputError(f"{used.name} holds embeddings: give those of the old images, too, by the same encoder")
    source = with_intensities(open_source(against), used.intensities)
    place = default_folder(source, used)
    place = folder / "against" if place.absolute() == folder.absolute() else place
    with only_process(place, ".mining", "mines into", "wait until it has ended"):
        networks = networks_of(used, config)
        reading = read_collection(source, *networks, place / "reading", device=device, workers=workers)
    return _old(source, reading.features, reading.usable, device)


def _of_mine(folder: Path, used: ResolvedEncoder | Embeddings, device: torch.device) -> Old:
    """The images and features of a finished `mine`."""
    place = folder / "reading"
    known, table = read_json(place / GUARD), images_of(place)
    features = read_array(place / FEATURES, mode="r")
    if table is None or len(table) != len(features):
        raise InputError(f"{folder} holds no finished `sdclr mine` of this version: mine the old images again")
    _check_same(known.get("encoder"), known.get("preprocessing"), used, str(folder))
    usable = np.flatnonzero(np.isfinite(features[:, 0]) & features.any(axis=1))
    ids, files = (table[name].take(usable).to_pylist() for name in ("id", "file"))
    return Old(
        str(folder.absolute()),
        [image_id.decode("utf-8", "surrogateescape") for image_id in ids],
        [None if file is None else os.fsdecode(file) for file in files],
        torch.from_numpy(features[usable]).to(device),
    )


def _old(source: Source, features: NDArray[np.float32], usable: NDArray[np.int64], device: torch.device) -> Old:
    files = [image_file(source, position) for position in usable.tolist()]
    return Old(
        source.name,
        [source.ids[position] for position in usable.tolist()],
        [None if file is None else str(file.absolute()) for file in files],
        torch.from_numpy(features[usable]).to(device),
    )


def _check_same(
    digest: str | None, preprocessing: dict[str, Any] | None, used: ResolvedEncoder | Embeddings, name: str
) -> None:
    """Compare encoders by their digests and views, if both are known.

    Raises:
        InputError: The encoders or views differ.
    """
    if isinstance(used, Embeddings):
        own, view = used.about.get("encoder"), used.about.get("preprocessing")
    else:
        own, view = network_digest(used.encoder), to_json(used.preprocessing)
    if digest is not None and own is not None and (digest, preprocessing) != (own, view):
        raise InputError(
            f"{name} is of another encoder, or of views of another size or range of intensities, than {used.name}: "
            "name the encoder of both with --encoder, or give the old images themselves"
        )


OLD_NEIGHBORS: Final = 10
"""Number of nearest old images to search for each new image."""


def nearest_old(new: Tensor, old: Tensor) -> Neighbors:
    """The nearest old images of each new image by cosine distance, found by `find_neighbors`.

    Args:
        new: (N, D) features.
        old: (M, D) features of the same encoder.
    """
    near = find_neighbors(old, min(OLD_NEIGHBORS, len(old)), queries=new)
    known = int((near.distances[:, 0] < _SAME).sum())
    if known == len(new):
        tell("every new image is among the old ones already: none is new, so their order has no meaning")
    elif known:
        tell(f"{known:,} of {len(new):,} new images are among the old ones already: they rank last")
    return near


def unlike_old(old: Neighbors) -> Tensor:
    """(N,) mean distance to the `AGAINST_K` nearest old images; 0 for images that are also among the old ones."""
    return neighbor_distance(old, AGAINST_K).masked_fill(old.distances[:, 0] < _SAME, 0)


def new_kinds(kinds: Kinds, among: Neighbors, old: Neighbors) -> NDArray[np.bool_]:
    """Find the kinds of new images without a counterpart among the old images.

    A kind has none if, for more than half of its images, the tenth nearest new image is nearer than the nearest old
    image. Kinds of fewer than eleven images use the number of their other images instead of ten.

    Args:
        kinds: Kinds of the N new images.
        among: Nearest neighbors of the new images among themselves.
        old: Nearest neighbors of the new images among the old images.

    Returns:
        (K,) True for kinds without a counterpart.
    """
    places = np.minimum(np.minimum(kinds.sizes[kinds.labels] - 1, OLD_NEIGHBORS), among.distances.shape[1])
    own = among.distances.cpu().numpy()[np.arange(len(places)), np.maximum(places, 1) - 1]
    apart = (old.distances[:, 0].cpu().numpy() > own) & (places > 0)
    return np.bincount(kinds.labels, weights=apart, minlength=len(kinds)) > kinds.sizes / 2
