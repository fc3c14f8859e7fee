"""Describe a collection without labels: its kinds, signs of a long tail, and the balance of an encoder on it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sdclr.config import to_json
from sdclr.data.intensities import with_intensities
from sdclr.data.sources import ImageSource, SubsetSource, fingerprint, open_source
from sdclr.decoding.decode import BadImage
from sdclr.errors import InputError
from sdclr.evaluation import label_free
from sdclr.evaluation.clusters import Clusters, find_clusters
from sdclr.evaluation.encoded import Encoded, encode
from sdclr.evaluation.evaluate import without_nan
from sdclr.features.approximate import find_neighbors
from sdclr.features.nearest import nearest
from sdclr.mining.config import MIN_IMAGES, DiagnoseConfig
from sdclr.mining.duplicates import duplicates_among
from sdclr.mining.kinds import Kinds, find_kinds
from sdclr.mining.mine import stored_reading
from sdclr.mining.neighbors import neighbor_distance
from sdclr.mining.ranking import kind_groups
from sdclr.mining.reading import Reading
from sdclr.mining.scores import KIND_NEIGHBORS
from sdclr.progress import stage
from sdclr.training.resolve import EncoderLike, ResolvedEncoder, resolve_encoder
from sdclr.version import __version__
from sdclr.views.config import ViewConfig

RELIED: Final = ("distance_spread", "distance_gini", "rank_me", "intrinsic_dimension")
"""Indices that change with the imbalance if all else, including the encoder, is equal (`docs/results/diagnosis.md`)."""

REFERENCE: Final = {1: (0.257, 0.013), 10: (0.281, 0.025), 50: (0.301, 0.033), 100: (0.307, 0.035)}
"""`distance_spread` of 3,000 images of CIFAR-10 by their imbalance: mean and standard deviation over a fixed set of
encoders and over class orders (`docs/results/diagnosis.md`)."""

_LISTED: Final = 8
"""Maximum number of kinds whose sizes the summary lists."""

_PAIRS: Final = 20
"""Maximum number of listed pairs of near-duplicates."""


def measure(encoded: Encoded, rows: NDArray[np.int64], *, k: int = 10, clusters: int = 20) -> dict[str, float]:
    """All label-free indices of some of the images.

    Args:
        encoded: Features.
        rows: (n,) rows of the features. Most indices depend on n: compare them at equal n.
        k: Number of neighbors per image.
        clusters: Number of k-means clusters; there are 2.5 times as many cells.

    Returns:
        Indices by name.
    """
    dense = encoded.dense[rows]
    k, clusters = min(k, len(rows) - 1), min(clusters, len(rows))
    near = nearest(dense, k)
    distance = near.distances.mean(1).numpy().astype(np.float64)
    groups = find_clusters(dense, clusters)
    found = {
        "distance_gini": label_free.gini(distance),
        "distance_spread": float(np.log(np.maximum(distance, 1e-6)).std()),
        "directions": label_free.directions(dense),
        "leading_direction": label_free.leading_direction(dense),
        "cell_gini": label_free.gini(label_free.cell_sizes(dense, 5 * clusters // 2)),
        "cluster_gini": label_free.gini(groups.sizes),
        "cluster_smaller_half": label_free.smaller_half_share(groups.sizes),
        "cluster_effective_number": label_free.effective_number(groups.sizes),
        "size_distance": label_free.size_correlation(groups.labels, distance),
        "rank_me": label_free.rank_me(dense),
        "uniformity": label_free.uniformity(dense),
        "hubness": label_free.hubness(near.indices, len(dense)),
        "intrinsic_dimension": label_free.intrinsic_dimension((2 * near.distances).sqrt()),
    }
    if encoded.views is not None:
        moved = label_free.alignment(*(view[rows] for view in encoded.views))
        found |= {"alignment": float(moved.mean()), "size_alignment": label_free.size_correlation(groups.labels, moved)}
    if encoded.sparse is not None:
        lost = label_free.forgetting(dense, encoded.sparse[rows])
        found |= {"forgetting": float(lost.mean()), "size_forgetting": label_free.size_correlation(groups.labels, lost)}
    return found


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of a collection and its encoder from features."""

    summary: list[str]
    """Summary in a few sentences."""
    indices: dict[str, float]
    """Indices behind the summary."""
    context: dict[str, float]
    """Other indices, which did not change with a known imbalance, or which measure something else."""
    kinds: list[dict[str, Any]]
    """Size, separation and medoid (an id) of each separate kind of image, largest first; see `sdclr.mine`."""
    clusters: list[dict[str, float]]
    """For each cluster, sparsest first: number of images, mean distance to neighbors, and mean forgetting if known."""
    duplicates: list[tuple[str, str]]
    """Ids of near-duplicates and of the image to keep instead of each, at most 20; see `sdclr.find_duplicates`."""
    bad: dict[str, str]
    """Reason why an image is unreadable, by id."""
    description: dict[str, Any]
    """The images read and the settings."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; unknown values are null."""
        return {
            "summary": self.summary,
            "indices": without_nan(self.indices),
            "context": without_nan(self.context),
            "kinds": without_nan(self.kinds),
            "clusters": without_nan(self.clusters),
            "duplicates": [list(pair) for pair in self.duplicates],
            "bad": self.bad,
            "description": self.description,
        }


def diagnose(
    images: ImageSource,
    config: DiagnoseConfig | None = None,
    *,
    encoder: EncoderLike = None,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Diagnosis:
    """Describe the kinds of images in a collection, signs of a long tail, and near-duplicates.

    Labels are not used. `docs/results/diagnosis.md` shows which indices change with a known imbalance. If `mine` has
    stored the features of all images, they are used again, except for runs and for `alignment`, which need more.

    Args:
        images: The collection.
        config: Settings; `DiagnoseConfig()` by default.
        encoder: A finished run or its folder, an exported folder, `timm:NAME`, a module (see `sdclr.load_encoder`); by
            default the pretrained encoder of `load_encoder()`.
        folder: The folder of `mine`; by default as for `mine`.
        device: Device of the encoder.
        workers: Number of decoding processes.

    Returns:
        Sentences, kinds, indices, clusters and near-duplicates.

    Raises:
        InputError: Fewer than 50 images can be decoded, or the run has no encoder.

    Examples:
        >>> found = sdclr.diagnose("images", encoder="runs/digits")
        >>> sorted(found.duplicates)  # image, and the one to keep instead
        [('circle/29.jpg', 'circle/00.jpg'), ('square/23.jpg', 'square/00.jpg')]
        >>> len(found.summary) > 1, sum(kind["size"] for kind in found.kinds)
        (True, 60)
    """
    config = config or DiagnoseConfig()
    whole = open_source(images)
    resolved = resolve_encoder(encoder, whole)
    whole = with_intensities(whole, resolved.preprocessing.intensities)
    rng = np.random.default_rng(config.seed)
    drawn = SubsetSource(whole, rng.permutation(len(whole))[: config.images], name=whole.name)
    reading = stored_reading(whole, resolved, out=folder, device=device) if may_reuse(resolved, config) else None
    if reading is not None:
        encoded = _stored(reading, drawn)
    else:
        encoded = encode(
            resolved,
            drawn,
            views=_views(resolved) if config.alignment else None,
            batch_size=config.batch_size,
            device=device,
            workers=workers,
        )
    if len(encoded.kept) < MIN_IMAGES:
        raise InputError(f"{whole.name}: {len(encoded.kept)} usable images; a diagnosis needs {MIN_IMAGES} or more")
    parts = _parts(len(encoded.kept), config.part)
    measured = []
    with stage("measuring", len(parts), unit="parts") as update:
        for rows in parts:
            measured.append(measure(encoded, rows, k=config.k, clusters=config.clusters))
            update(len(measured))
    found = {name: float(np.mean([part[name] for part in measured])) for name in measured[0]}
    ids = [drawn.ids[position] for position in encoded.kept.tolist()]
    near = find_neighbors(encoded.dense, min(max(config.k, KIND_NEIGHBORS), len(ids) - 1))
    kinds = find_kinds(encoded.dense, k=KIND_NEIGHBORS, neighbors=near)
    copies = duplicates_among(drawn, near, encoded.kept, workers=workers)
    found["near_duplicates"] = sum(map(len, copies.groups)) / len(ids)
    groups = find_clusters(encoded.dense, config.clusters, seed=config.seed)
    distance = neighbor_distance(near, config.k).numpy()
    clusters = _by_cluster(groups, distance, encoded)
    return Diagnosis(
        summary=[
            balance_sentence(kinds),
            *_summary(
                found,
                clusters,
                read=len(ids),
                config=config,
                bad=len(encoded.bad),
                trained_here=resolved.run is not None,
            ),
        ],
        indices={name: found[name] for name in (*RELIED, "near_duplicates")},
        context={name: value for name, value in found.items() if name not in (*RELIED, "near_duplicates")},
        kinds=[asdict(group) | {"medoid": ids[group.medoid]} for group in kind_groups(kinds)],
        clusters=clusters,
        duplicates=[(drawn.ids[pair.drop], drawn.ids[pair.keep]) for pair in copies.pairs[:_PAIRS]],
        bad={item.id: item.reason for item in encoded.bad},
        description={
            "run": resolved.short_name,
            "source": {"name": whole.name, "images": len(whole), "fingerprint": fingerprint(whole)},
            "read": len(ids),
            "parts": [len(rows) for rows in parts],
            "deviation": {name: float(np.std([part[name] for part in measured])) for name in RELIED},
            "reference": {str(imbalance): list(value) for imbalance, value in REFERENCE.items()},
            "config": to_json(config),
            "sdclr": __version__,
        },
    )


def _views(resolved: ResolvedEncoder) -> ViewConfig:
    """Augmented views as in training; without a run, the defaults at the encoder's image size."""
    run = resolved.run
    return ViewConfig(image_size=resolved.preprocessing.image_size) if run is None else run.config.views


def may_reuse(resolved: ResolvedEncoder, config: DiagnoseConfig) -> bool:
    """Whether stored features of the encoder are enough: no features of a pruned twin or of augmented views."""
    return resolved.run is None and not config.alignment


def _stored(reading: Reading, drawn: SubsetSource) -> Encoded:
    """Stored features of some images."""
    usable = np.isin(drawn.indices, reading.usable)
    bad = [BadImage(name, reading.bad[name], counted=True) for name in drawn.ids if name in reading.bad]
    return Encoded(reading.features[drawn.indices[usable]], None, None, np.flatnonzero(usable), bad)


def balance_sentence(kinds: Kinds) -> str:
    """Text on the balance of a collection, from the sizes of its kinds."""
    if len(kinds) < 2:
        return (
            "No kind of image is separate from the others: the images form one connected group, and the sizes of the "
            "kinds in it cannot be determined without labels."
        )
    sizes = [f"{size:,}" for size in kinds.sizes.tolist()]
    listed = ", ".join(sizes[:_LISTED])
    smaller = f", and {len(sizes) - _LISTED} smaller ones" if len(sizes) > _LISTED else ""
    rare = kinds.rare()
    share = kinds.sizes[rare].sum() / kinds.sizes.sum()
    found = int(rare.sum())
    verbs = ("is", "holds") if found == 1 else ("are", "hold")
    few = (
        f"{found} of them {verbs[0]} rare and {verbs[1]} {share:.1%} of the images" if found else "none of them is rare"
    )
    return (
        f"The collection has {len(sizes)} separate kinds, with {listed} images{smaller}: {few}. The largest kind is "
        f"{kinds.sizes[0] / kinds.sizes[-1]:.1f} times as large as the smallest. A kind may hold several classes that "
        "look alike."
    )


def _parts(count: int, size: int) -> list[NDArray[np.int64]]:
    """Disjoint ranges of rows of the given size, or one range of all rows. The rows are already in random order."""
    if count < size:
        return [np.arange(count)]
    return [np.arange(begin, begin + size) for begin in range(0, count - size + 1, size)]


def _by_cluster(groups: Clusters, distance: NDArray[np.float32], encoded: Encoded) -> list[dict[str, float]]:
    columns = {"distance": distance}
    if encoded.sparse is not None:
        columns["forgetting"] = label_free.forgetting(encoded.dense, encoded.sparse)
    found = [
        {"cluster": number, "images": int(size)}
        | {name: float(values[groups.labels == number].mean()) for name, values in columns.items()}
        for number, size in enumerate(groups.sizes.tolist())
    ]
    return sorted(found, key=lambda cluster: -cluster["distance"])


def _summary(
    found: dict[str, float],
    clusters: list[dict[str, float]],
    *,
    read: int,
    config: DiagnoseConfig,
    bad: int,
    trained_here: bool,
) -> list[str]:
    few = f" with {config.part:,} images, not {read:,}" if read < config.part else ""
    # The scale was measured with small encoders trained on the collection, and is only valid for them.
    sentences = [_scale_sentence(found["distance_spread"], few)] if trained_here else []
    fifth = max(1, len(clusters) // 5)
    sparse, dense = clusters[:fifth], clusters[-fifth:]
    ratio = _mean_distance(sparse) / max(_mean_distance(dense), 1e-6)
    share = sum(cluster["images"] for cluster in sparse) / sum(cluster["images"] for cluster in clusters)
    sentences.append(
        f"In the sparsest fifth of the clusters ({share:.0%} of the images), images are {ratio:.1f} times as far from "
        "their neighbors as in the densest fifth. Encoders make more errors where neighbors are far."
    )
    sentences.append(
        f"{found['near_duplicates']:.1%} of the images have a near-duplicate: the same picture, recompressed, resized, "
        "cropped, mirrored or brightened. `sdclr duplicates` lists them."
    )
    next_step = "`sdclr mine` shows the rarest images, `sdclr select` which to label first"
    if bad:
        next_step += f"; unreadable images: {bad}, which the diagnosis lists"
    sentences.append(f"Next: {next_step}.")
    return sentences


def _scale_sentence(value: float, few: str) -> str:
    """Text that compares the spread of distances with collections of known imbalance, and states the limits."""
    (balanced, deviation), (most, most_deviation) = REFERENCE[1], REFERENCE[100]
    scale = f"{balanced:.2f} ± {deviation:.2f} when balanced, {most:.2f} ± {most_deviation:.2f} at an imbalance of 100"
    if value > balanced + 2 * deviation:
        return (
            f"The collection may be long-tailed: distances to neighbors spread {value:.2f}, wider than in balanced "
            f"subsets of CIFAR-10 ({scale}, taken{few} under small encoders). This is a hint, not a "
            "measurement: a short training spreads the distances, too."
        )
    return (
        f"No sign of a long tail, which does not rule one out: distances to neighbors spread {value:.2f}, as in "
        f"balanced subsets of CIFAR-10 ({scale}, taken{few} under small encoders), but an encoder evens "
        "out the distances in a long tail that it was trained on."
    )


def _mean_distance(clusters: list[dict[str, float]]) -> float:
    images = sum(cluster["images"] for cluster in clusters)
    return sum(cluster["images"] * cluster["distance"] for cluster in clusters) / images
