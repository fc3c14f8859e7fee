"""Rank the images of a collection by rarity, without labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.config import to_json
from sdclr.data.config import ViewConfig
from sdclr.data.sources import ImageSource, Source, fingerprint, open_source
from sdclr.encoders import Encoder
from sdclr.errors import InputError
from sdclr.features.approximate import find_neighbors, is_approximate, sample_recall
from sdclr.features.embeddings import EmbeddedImages, Embeddings, embedding_files, embeddings_of, read_embeddings
from sdclr.features.nearest import Neighbours
from sdclr.features.projection import describe_map, project
from sdclr.files import write_json
from sdclr.mining.before import SCORES, has_scores, reading_key, scores_before
from sdclr.mining.config import MineConfig
from sdclr.mining.duplicates import Duplicates, duplicates_among
from sdclr.mining.forgetting import Networks, load_networks, own_normalisation, pruned_copies
from sdclr.mining.kinds import find_kinds, kind_rarity
from sdclr.mining.loss import draw_references, reference_loss
from sdclr.mining.neighbours import local_outlier_factor, neighbour_distance
from sdclr.mining.reading import Plan, Reading, is_read, read_collection
from sdclr.mining.scores import KIND_NEIGHBORS, Scores, kind_groups, rank_images
from sdclr.mining.suggest import first_to_label
from sdclr.progress import stage
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder
from sdclr.version import __version__

MinedEncoder: TypeAlias = EncoderLike | Embeddings | NDArray[Any]
"""An encoder by any of its names, or embeddings of the images: as a file, read, or an (N, D) array."""


class Mined(NamedTuple):
    """What `mine_features` gives."""

    scores: Scores
    features: NDArray[np.float32]
    """(N, D), nan where an image is unreadable; memory-mapped where an encoder made them."""
    folder: Path
    duplicates: Duplicates | None = None
    """Near-duplicates and how they differ; None if they were not looked for."""


def mine(
    images: ImageSource,
    config: MineConfig | None = None,
    *,
    encoder: MinedEncoder = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Scores:
    """Rank every image of a collection by rarity.

    Writes `scores.parquet`, `summary.json`, `duplicates.json` and the folder `reading` with the encoder's features. A
    pass that was stopped resumes. A complete pass is used again, so that another `score` or `k` takes seconds. Images
    that changed under the same ids are not noticed: remove `reading` and `duplicates.json` then.

    Args:
        images: A folder, a manifest, or whatever else `open_source` takes; or embeddings (`.parquet`, `.npy`).
            Unreadable images are listed in `Scores.bad`.
        config: What is measured; `MineConfig()` by default.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`),
            embeddings of the images as a file or an (N, D) array; by default the pretrained encoder that
            `load_encoder()` gives.
        out: The folder to write into; by default `mine` in the run's folder, or `mined/NAME` for other encoders.
        device: Where the networks and the search for neighbors run.
        workers: Processes that decode images.

    Returns:
        The scores.

    Raises:
        InputError: If no image can be decoded, there is no such encoder, embeddings do not fit the images, or a setting
            needs a run and the encoder is none.

    Example:
        >>> scores = sdclr.mine("./images")  # doctest: +SKIP
        >>> [scores.ids[row] for row in scores.order()[:10]]  # the ten rarest  # doctest: +SKIP
    """
    return mine_features(images, config, encoder=encoder, out=out, device=device, workers=workers).scores


def mine_features(
    images: ImageSource,
    config: MineConfig | None = None,
    *,
    encoder: MinedEncoder = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    reuse: bool = False,
) -> Mined:
    """`mine`, with the features that the scores came from. Arguments and errors are those of `mine`.

    Args:
        images: As for `mine`.
        config: As for `mine`.
        encoder: As for `mine`.
        out: As for `mine`.
        device: As for `mine`.
        workers: As for `mine`.
        reuse: Take up the scores that an earlier call left in the folder, if they are the same but for the map. Scores
            that have to be computed then get no map and no suggestions, and are written only where none lie yet.
    """
    config, where = config or MineConfig(), torch.device(device)
    source, used = open_mined(images, encoder, image_size=config.image_size)
    folder = Path(out) if out is not None else default_folder(source, used)
    if isinstance(used, ResolvedEncoder):
        ratios = _ratios(used, config)
        networks = _networks(used, config, ratios)
        reading = read_collection(source, *networks, folder / "reading", device=where, workers=workers)
    else:
        ratios, reading = (), _embedded(used, source, config)
    key = reading_key(reading, folder if isinstance(used, ResolvedEncoder) else None) | {"source": fingerprint(source)}
    if reuse:
        known = scores_before(folder, key, config, source)
        if known is not None:
            return Mined(known.scores, reading.features, folder, known.duplicates)
        config = replace(config, map=False)
    scores, near = _scored(used, source, reading, config, ratios=ratios, device=where)
    scores = replace(scores, about=scores.about | {"reading": key})
    copies = None
    if config.duplicates:
        copies = duplicates_among(source, near, reading.usable, folder=folder, workers=workers)
        scores = replace(scores, duplicates=copies.groups)
    if reuse and has_scores(folder, key):
        return Mined(scores, reading.features, folder, copies)  # those that lie there have a map, and serve a page
    if not reuse:
        scores = replace(scores, label_next=first_to_label(reading, scores, where))
    scores.write(folder / SCORES)
    write_json(folder / "summary.json", scores.summary())
    return Mined(scores, reading.features, folder, copies)


def is_mined(
    source: Source,
    used: ResolvedEncoder | Embeddings,
    config: MineConfig,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> bool:
    """Whether an earlier call has read all images, so that nothing is left for the encoder. Arguments as for `mine`."""
    if isinstance(used, Embeddings):
        return True
    folder = Path(out) if out is not None else default_folder(source, used)
    networks = _networks(used, config, _ratios(used, config))
    return is_read(source, *networks, folder / "reading", device=torch.device(device))


def open_mined(
    images: ImageSource, encoder: MinedEncoder, *, image_size: int | None = None
) -> tuple[Source, ResolvedEncoder | Embeddings]:
    """The images and what says how alike they are: an encoder, or embeddings.

    Raises:
        InputError: If either cannot be opened, or embeddings are given twice.
    """
    if isinstance(images, (str, Path)) and embedding_files(images):
        if encoder is not None:
            raise InputError(f"{images} holds embeddings already: leave out the encoder, or name the images instead")
        embeddings = read_embeddings(images)
        return EmbeddedImages(embeddings), embeddings
    source = open_source(images)
    if isinstance(encoder, Embeddings):
        return source, encoder
    if isinstance(encoder, np.ndarray):
        return source, embeddings_of(encoder, name="encoder")
    if isinstance(encoder, (str, Path)) and embedding_files(encoder):
        return source, read_embeddings(encoder)
    return source, resolve_encoder(encoder, source, image_size=image_size)


def default_folder(source: Source, used: ResolvedEncoder | Embeddings) -> Path:
    """Where results go if the caller names no folder: into the run, else `mined/NAME` here."""
    if isinstance(used, ResolvedEncoder) and used.run is not None:
        return used.run.path / "mine"
    name = Path(source.name).stem if isinstance(source, EmbeddedImages) else source.name
    return Path("mined") / (name.replace("/", "-") or "images")


def passes(used: ResolvedEncoder | Embeddings, config: MineConfig) -> int:
    """Forward passes for each image: more than one where pruned copies of the encoder are compared with it."""
    ratios = () if isinstance(used, Embeddings) else _ratios(used, config)
    return config.views * (1 + len(ratios)) if ratios else 1


def _ratios(used: ResolvedEncoder, config: MineConfig) -> tuple[float, ...]:
    wish = config.needs_run()
    if wish is not None:
        used.require_run(wish)
    own = (used.run.pruned,) if used.run is not None and used.run.pruned else ()  # an adaptive ratio may end at 0
    ratios = own if config.ratios is None else tuple(dict.fromkeys(config.ratios))
    if config.score == "forgetting" and not ratios:
        raise InputError(
            f"{used.name} was not pruned in training: give --ratios 0.5, or another --score than forgetting"
        )
    return ratios


def _networks(
    used: ResolvedEncoder, config: MineConfig, ratios: tuple[float, ...]
) -> tuple[Encoder, list[Networks], Plan]:
    """The encoder, its pruned copies, and what is read by them in one pass over the images."""
    loss = config.loss or config.score == "loss"
    if used.run is None:
        states = [pruned_copies(used.encoder, ratios)] if ratios else []
        views = ViewConfig(image_size=used.preprocessing.image_size)
    else:
        states = load_networks(used.run, ratios, config.checkpoints if ratios else 1) if ratios or loss else []
        views = used.run.config.views
    plan = Plan(
        preprocessing=used.preprocessing,
        views=views,
        forgetting_views=config.views if ratios else 1,
        pairs=max(1, (config.views - 1) // 2) if loss else 0,
        projection=config.projection and bool(ratios),
        batch_size=config.batch_size,
        amp=config.amp,
        seed=config.seed,
    )
    return states[0].dense.encoder if states else used.encoder, states, plan


def _embedded(embeddings: Embeddings, source: Source, config: MineConfig) -> Reading:
    """Embeddings as a reading: there is nothing to read but them."""
    wish = config.needs_run() or ("--score forgetting" if config.score == "forgetting" or config.ratios else None)
    if wish is not None:
        raise InputError(f"{wish} needs a network, and {embeddings.name} holds embeddings only: name an encoder")
    values = embeddings.of(source.ids, source.name)
    return Reading(values, {}, None, {}, np.arange(len(values)))


def _scored(
    used: ResolvedEncoder | Embeddings,
    source: Source,
    reading: Reading,
    config: MineConfig,
    *,
    ratios: tuple[float, ...],
    device: torch.device,
) -> tuple[Scores, Neighbours]:
    usable, total = reading.usable, len(source)
    # Without bad images the file itself is searched, so that features lie in memory once.
    features = torch.from_numpy(reading.features if len(usable) == total else reading.features[usable]).to(device)
    ks = tuple(dict.fromkeys(min(k, max(1, len(usable) - 1)) for k in config.k))
    near = _neighbors(features, max(*ks, KIND_NEIGHBORS))
    kinds = find_kinds(features, k=KIND_NEIGHBORS, neighbors=near)

    def spread(values: Any, empty: float = np.nan) -> NDArray[Any]:
        """(N, ...) from the usable images' values."""
        array = values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        whole = np.full((total, *array.shape[1:]), empty, dtype=array.dtype)
        whole[usable] = array
        return whole

    distance = {k: neighbour_distance(near, k) for k in ks}
    columns = {f"distance_{k}": spread(values) for k, values in distance.items()}
    if config.lof or config.score == "lof":
        columns |= {f"lof_{k}": spread(local_outlier_factor(near, k)) for k in ks}
    columns["kind_size"] = spread(kinds.sizes[kinds.labels].astype(np.float32))
    columns |= reading.columns
    if reading.projections is not None and isinstance(used, ResolvedEncoder):
        columns["loss"] = _loss(reading, used.require_run("the loss").config.temperature, config)
    first = f"{config.score}_{ratios[0] if config.score == 'forgetting' else ks[0]:g}"
    ranking = {"kinds": "kind_size", "loss": "loss"}.get(config.score, first)
    by_kind = spread(kind_rarity(kinds, distance[ks[0]].cpu().numpy()))
    own = isinstance(used, ResolvedEncoder) and used.run is not None and own_normalisation(used.run)
    scores = rank_images(
        source.ids,
        columns,
        by_kind if config.score == "kinds" else columns[ranking],
        spread(kinds.labels, -1),
        score=config.score,
        groups=kind_groups(kinds, usable),
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
            "normalisation": ("own" if own else "shared") if ratios else None,
            "neighbors": _search(features, near, config.seed),
            "map": describe_map(len(usable)) if config.map else None,
            "config": to_json(config),
            "sdclr": __version__,
        },
        projection=spread(_map(near, config.seed)) if config.map else None,
    )
    return scores, near


def _map(near: Neighbours, seed: int) -> NDArray[np.float32]:
    """Places of images by the neighbors that kinds are found with, however many more were asked for."""
    return project(Neighbours(near.distances[:, :KIND_NEIGHBORS], near.indices[:, :KIND_NEIGHBORS]), seed=seed)


def _neighbors(features: torch.Tensor, k: int) -> Neighbours:
    """The k nearest neighbors of each image, or as many as there are; a single image has itself at distance 0."""
    if len(features) == 1:
        return Neighbours(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    return find_neighbors(features, min(k, len(features) - 1))


def _search(features: torch.Tensor, near: Neighbours, seed: int) -> dict[str, Any]:
    """How neighbors were sought, and the share of the true ones that were found."""
    if not is_approximate(features, len(features)):
        return {"search": "exact", "recall": 1.0}
    return {"search": "approximate", "recall": round(sample_recall(features, near, seed=seed), 4)}


@stage("computing losses")
def _loss(reading: Reading, temperature: float, config: MineConfig) -> NDArray[np.float32]:
    projections = reading.projections
    assert projections is not None  # noqa: S101  # for mypy: the caller has looked
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
