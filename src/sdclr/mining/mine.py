"""Rank the images of a collection by rarity, without labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.config import to_json
from sdclr.data.intensities import intensities_of, with_intensities
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.errors import InputError
from sdclr.features.approximate import find_neighbors, is_approximate, sample_recall
from sdclr.features.embeddings import EmbeddedImages, Embeddings, embedding_files, embeddings_of, read_embeddings
from sdclr.features.nearest import Neighbors
from sdclr.features.projection import describe_map, project
from sdclr.files import write_json
from sdclr.files.alone import only_process
from sdclr.mining.against import AGAINST_K, Old, nearest_old, new_kinds, open_old, unlike_old
from sdclr.mining.before import SCORES, has_scores, kept_intensities, reading_key, scores_before
from sdclr.mining.config import MineConfig
from sdclr.mining.duplicates import Duplicates, duplicates_among
from sdclr.mining.forgetting import own_normalization
from sdclr.mining.kinds import find_kinds, kind_rarity
from sdclr.mining.loss import draw_references, reference_loss
from sdclr.mining.neighbors import local_outlier_factor, neighbor_distance
from sdclr.mining.plan import default_folder, networks_of, ratios_of
from sdclr.mining.ranking import kind_groups, rank_images
from sdclr.mining.reading import Reading, count_unread, read_collection
from sdclr.mining.scores import KIND_NEIGHBORS, Scores
from sdclr.mining.suggest import first_to_label
from sdclr.progress import stage
from sdclr.reporting.gallery_entries import NearestOld
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder
from sdclr.version import __version__

MinedEncoder: TypeAlias = EncoderLike | Embeddings | NDArray[Any]
"""An encoder in any supported form, or embeddings of the images: a file, an `Embeddings` object or an (N, D) array."""


class Mined(NamedTuple):
    """Result of `mine_features`."""

    scores: Scores
    features: NDArray[np.float32]
    """(N, D), nan for unreadable images; memory-mapped if an encoder made them."""
    folder: Path
    duplicates: Duplicates | None = None
    """Near-duplicates and their edits; None if they were not searched."""


def mine(
    images: ImageSource,
    config: MineConfig | None = None,
    *,
    encoder: MinedEncoder = None,
    against: ImageSource | Embeddings | None = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Scores:
    """Rank every image of a collection by rarity.

    Writes `scores.parquet`, `summary.json`, `duplicates.json` and the folder `reading` with the encoder's features. A
    stopped pass resumes. A complete pass is reused, so that another `score` or `k` takes seconds. For a collection that
    has changed, only new images and images with changed files are read.

    Args:
        images: A folder, a manifest, or any other input of `open_source`; or embeddings (`.parquet`, `.npy`).
            Unreadable images are listed in `Scores.bad`.
        config: The measures and the score; `MineConfig()` by default.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`),
            embeddings of the images as a file or an (N, D) array; by default the pretrained encoder of
            `load_encoder()`.
        against: An older collection: images, embeddings by the same encoder, or the folder of its finished `mine`.
            Ranks images by how much they differ from the old ones: kinds without a counterpart there come first, all
            others follow by their distance to the nearest old images.
        out: The folder to write into; by default `mine` in the run's folder for its training images and `mine-NAME` for
            others, or `mined/NAME` for other encoders.
        device: Device of the networks and the search for neighbors.
        workers: Number of decoding processes.

    Returns:
        The scores.

    Raises:
        InputError: No image can be decoded, there is no such encoder, embeddings do not match the images, a setting
            needs a run and the encoder is not a run, or another process mines into the folder.

    Examples:
        >>> scores = sdclr.mine("images")
        >>> sorted(scores.ids[row] for row in scores.order()[:6])  # the six rarest
        ['star/00.jpg', 'star/01.jpg', 'star/02.jpg', 'star/03.jpg', 'star/04.jpg', 'star/05.jpg']
    """
    return mine_features(
        images, config, encoder=encoder, against=against, out=out, device=device, workers=workers
    ).scores


def mine_features(
    images: ImageSource,
    config: MineConfig | None = None,
    *,
    encoder: MinedEncoder = None,
    against: ImageSource | Embeddings | None = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    reuse: bool = False,
) -> Mined:
    """`mine`, with the features behind the scores. Arguments and errors are those of `mine`.

    Args:
        images: As for `mine`.
        config: As for `mine`.
        encoder: As for `mine`.
        against: As for `mine`.
        out: As for `mine`.
        device: As for `mine`.
        workers: As for `mine`.
        reuse: Reuse the scores of an earlier call in the folder if its settings differ at most in the map. Otherwise
            compute scores without a map and suggestions, and write them only if the folder has none yet.
    """
    config, where = config or MineConfig(), torch.device(device)
    source, used = open_mined(images, encoder, image_size=config.image_size, out=out)
    folder = Path(out) if out is not None else default_folder(source, used)
    _check(used, config)
    with only_process(folder, ".mining", "mines into", "name another folder with --out", reads=reuse):
        old = None if against is None else open_old(against, used, config, folder=folder, device=where, workers=workers)
        return _mined(source, used, config, folder, where, old=old, workers=workers, reuse=reuse)


def _mined(
    source: Source,
    used: ResolvedEncoder | Embeddings,
    config: MineConfig,
    folder: Path,
    where: torch.device,
    *,
    old: Old | None,
    workers: int,
    reuse: bool,
) -> Mined:
    """`mine_features`, alone in the folder."""
    if isinstance(used, ResolvedEncoder):
        ratios = ratios_of(used, config)
        networks = networks_of(used, config)
        reading = read_collection(source, *networks, folder / "reading", device=where, workers=workers)
    else:
        ratios, reading = (), _embedded(used, source)
    key = reading_key(reading, folder if isinstance(used, ResolvedEncoder) else None) | {"source": fingerprint(source)}
    if old is not None:
        key["against"] = old.name
    if reuse:
        known = scores_before(folder, key, config, source)
        if known is not None:
            return Mined(known.scores, reading.features, folder, known.duplicates)
        config = replace(config, map=False)
    scores, near = _scored(used, source, reading, config, ratios=ratios, old=old, device=where)
    scores = replace(scores, about=scores.about | {"reading": key})
    copies = None
    if config.duplicates:
        copies = duplicates_among(source, near, reading.usable, folder=folder, workers=workers)
        scores = replace(scores, duplicates=copies.groups)
    if reuse and has_scores(folder, key):
        return Mined(scores, reading.features, folder, copies)  # keep the existing file, which may have a map
    if not reuse:
        scores = replace(scores, label_next=first_to_label(reading, scores, where))
    scores.write(folder / SCORES)
    write_json(folder / "summary.json", scores.summary())
    return Mined(scores, reading.features, folder, copies)


def left_to_read(
    source: Source,
    used: ResolvedEncoder | Embeddings,
    config: MineConfig,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> int:
    """Number of images that the encoder still has to read. Arguments as for `mine`."""
    if isinstance(used, Embeddings):
        return 0
    folder = Path(out) if out is not None else default_folder(source, used)
    networks = networks_of(used, config)
    return count_unread(source, *networks, folder / "reading", device=torch.device(device))


def stored_reading(
    source: Source, used: ResolvedEncoder, *, out: str | Path | None = None, device: str | torch.device = "cpu"
) -> Reading | None:
    """The features that `mine` has stored for these images and this encoder; None if some are missing.

    Args:
        source: The images, as `open_mined` opens them.
        used: The encoder.
        out: The folder of `mine`; by default as for `mine`.
        device: Device of the encoder.
    """
    config = MineConfig()
    if left_to_read(source, used, config, out=out, device=device):
        return None
    folder = Path(out) if out is not None else default_folder(source, used)
    networks = networks_of(used, config)
    with only_process(folder, ".mining", "mines into", "name another folder", reads=True):
        return read_collection(source, *networks, folder / "reading", device=torch.device(device))


def open_mined(
    images: ImageSource,
    encoder: MinedEncoder,
    *,
    image_size: int | None = None,
    out: str | Path | None = None,
) -> tuple[Source, ResolvedEncoder | Embeddings]:
    """Open the images, and the encoder or embeddings that measure their similarity.

    The intensity range for images of more than 8 bits is that of the encoder's training, otherwise that of the
    embeddings or of an earlier call in the same folder, otherwise that of the images.

    Args:
        images: As for `mine`.
        encoder: As for `mine`.
        image_size: Side of the view in pixels.
        out: The result folder.

    Raises:
        InputError: The images or the encoder cannot be opened, or embeddings are given twice.
    """
    if isinstance(images, (str, Path)) and embedding_files(images):
        if encoder is not None:
            raise InputError(f"{images} holds embeddings already: leave out the encoder, or name the images instead")
        embeddings = read_embeddings(images)
        return EmbeddedImages(embeddings), embeddings
    source = open_source(images)
    if isinstance(encoder, np.ndarray):
        encoder = embeddings_of(encoder, name="encoder")
    elif isinstance(encoder, (str, Path)) and embedding_files(encoder):
        encoder = read_embeddings(encoder)
    if isinstance(encoder, Embeddings):
        return with_intensities(source, encoder.intensities), encoder
    used = resolve_encoder(encoder, source, image_size=image_size)
    if used.intensities and not used.encoder.preprocessing.intensities and not intensities_of(source)[1]:
        kept = kept_intensities(Path(out) if out is not None else default_folder(source, used), source)
        used = replace(used, intensities=kept.over(used.intensities))
    return with_intensities(source, used.intensities), used


def _check(used: ResolvedEncoder | Embeddings, config: MineConfig) -> None:
    """Check that the encoder supports the settings, before anything is written.

    Raises:
        InputError: It does not support them.
    """
    if isinstance(used, ResolvedEncoder):
        ratios_of(used, config)
        return
    wish = config.needs_run() or ("--score forgetting" if config.score == "forgetting" or config.ratios else None)
    if wish is not None:
        raise InputError(f"{wish} needs a network, and {used.name} holds embeddings only: name an encoder")


def _embedded(embeddings: Embeddings, source: Source) -> Reading:
    """Embeddings as a reading, without reading images."""
    values = embeddings.of(source.ids, source.name)
    return Reading(values, {}, None, {}, np.arange(len(values)))


def _scored(
    used: ResolvedEncoder | Embeddings,
    source: Source,
    reading: Reading,
    config: MineConfig,
    *,
    ratios: tuple[float, ...],
    old: Old | None,
    device: torch.device,
) -> tuple[Scores, Neighbors]:
    usable, total = reading.usable, len(source)
    # Without bad images, search the mapped file itself, so that features are in memory only once.
    features = torch.from_numpy(reading.features if len(usable) == total else reading.features[usable]).to(device)
    ks = tuple(dict.fromkeys(min(k, max(1, len(usable) - 1)) for k in config.k))
    near = _neighbors(features, max(*ks, KIND_NEIGHBORS))
    kinds = find_kinds(features, k=KIND_NEIGHBORS, neighbors=near)

    def spread(values: Any, empty: float = np.nan) -> NDArray[Any]:
        """(N, ...) values of all images from those of the usable images."""
        array = values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        whole = np.full((total, *array.shape[1:]), empty, dtype=array.dtype)
        whole[usable] = array
        return whole

    distance = {k: neighbor_distance(near, k) for k in ks}
    columns = {f"distance_{k}": spread(values) for k, values in distance.items()}
    if config.lof or config.score == "lof":
        columns |= {f"lof_{k}": spread(local_outlier_factor(near, k)) for k in ks}
    columns["kind_size"] = spread(kinds.sizes[kinds.labels].astype(np.float32))
    columns |= reading.columns
    if reading.projections is not None and isinstance(used, ResolvedEncoder):
        columns["loss"] = _loss(reading, used.require_run("the loss").config.temperature, config)
    first = f"{config.score}_{ratios[0] if config.score == 'forgetting' else ks[0]:g}"
    ranking = {"kinds": "kind_size", "loss": "loss"}.get(config.score, first)
    near_old = None if old is None else nearest_old(features, old.features)
    leading = kinds.rare() if near_old is None else new_kinds(kinds, near, near_old)
    far = distance[ks[0]]
    if near_old is not None:
        far = unlike_old(near_old)
        ranking = f"against_{min(AGAINST_K, near_old.distances.shape[1])}"
        columns[ranking] = spread(far)
    by_kind = spread(kind_rarity(kinds, far.cpu().numpy(), leading=leading))
    shown = "against" if near_old is not None else config.score
    own = isinstance(used, ResolvedEncoder) and used.run is not None and own_normalization(used.run)
    scores = rank_images(
        source.ids,
        columns,
        by_kind if shown in ("kinds", "against") else columns[ranking],
        spread(kinds.labels, -1),
        score=shown,
        groups=kind_groups(kinds, usable, rare=leading),
        odd=usable[kinds.odd],
        bad=reading.bad,
        ties=columns[f"distance_{ks[0]}"],
        labels=source.labels,
        classes=source.classes,
        about={
            "encoder": used.name,
            "origin": _origin(used),
            "source": source.name,
            "fingerprint": fingerprint(source),
            "ranked_by": ranking,
            "normalization": ("own" if own else "shared") if ratios else None,
            "neighbors": _search(features, near, config.seed),
            "map": describe_map(len(usable)) if config.map else None,
            "intensities": to_json(seen) if (seen := intensities_of(source)[0]) else None,
            "config": to_json(config),
            "sdclr": __version__,
        },
        projection=spread(_map(near, config.seed)) if config.map else None,
    )
    if old is not None and near_old is not None:
        rows, distances = spread(near_old.indices, -1), spread(near_old.distances)
        scores = replace(scores, old=NearestOld(old.ids, old.files, rows, distances))
    return replace(scores, since=reading.since), near


def _map(near: Neighbors, seed: int) -> NDArray[np.float32]:
    """Map coordinates of images, from the number of neighbors used for kinds."""
    return project(Neighbors(near.distances[:, :KIND_NEIGHBORS], near.indices[:, :KIND_NEIGHBORS]), seed=seed)


def _neighbors(features: torch.Tensor, k: int) -> Neighbors:
    """The k nearest neighbors of each image, or all if there are fewer. A single image is its own neighbor."""
    if len(features) == 1:
        return Neighbors(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    return find_neighbors(features, min(k, len(features) - 1))


def _search(features: torch.Tensor, near: Neighbors, seed: int) -> dict[str, Any]:
    """The search for neighbors, and its recall."""
    if not is_approximate(features, len(features)):
        return {"search": "exact", "recall": 1.0}
    return {"search": "approximate", "recall": round(sample_recall(features, near, seed=seed), 4)}


@stage("computing losses")
def _loss(reading: Reading, temperature: float, config: MineConfig) -> NDArray[np.float32]:
    projections = reading.projections
    assert projections is not None  # noqa: S101  # for mypy: the caller has checked
    references = draw_references(reading.usable, config.references, config.seed)
    losses = [
        reference_loss(projections[:, pair, 0], projections[:, pair, 1], references, temperature)
        for pair in range(projections.shape[1])
    ]
    mean: NDArray[np.float32] = np.mean(losses, axis=0)
    return mean


def _origin(used: ResolvedEncoder | Embeddings) -> str | None:
    if isinstance(used, Embeddings):
        return used.about.get("origin")
    return None if used.encoder.origin is None else used.encoder.origin.sentence
