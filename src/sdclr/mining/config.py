"""Settings of mining, selection and diagnosis. Imports neither NumPy nor torch."""

from dataclasses import dataclass
from typing import Final, Literal

from sdclr.choices import Amp
from sdclr.config import check_numbers
from sdclr.errors import InputError

Score = Literal["kinds", "distance", "lof", "forgetting", "loss"]


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """The measures of each image, and the score that ranks the images.

    Example:
        >>> sdclr.MineConfig(score="distance", k=(5, 20)).needs_run() is None
        True
        >>> sdclr.MineConfig(score="forgetting", checkpoints=3).needs_run()
        '--checkpoints'
    """

    score: Score = "kinds"
    """The ranking. kinds: images of rare separate groups first, all others by distance. distance: mean distance to the
    nearest neighbors. lof: density around the neighbors over the density around the image. forgetting: how much pruning
    the network changes the features. loss: the contrastive loss."""
    k: tuple[int, ...] = (10,)
    """Numbers of neighbors for distance and lof. Each adds a column; the first one ranks."""
    ratios: tuple[float, ...] | None = None
    """Pruning ratios for forgetting; the first one ranks. By default that of the run, and none for other encoders."""
    projection: bool = False
    """Also measure forgetting after the projection head. Needs a run."""
    views: int = 1
    """Views that forgetting is averaged over: 1 is the evaluation view, more add augmented views. Needs a run."""
    checkpoints: int = 1
    """Newest checkpoints that forgetting is averaged over; a run keeps two. Needs a run."""
    loss: bool = False
    """Also measure the contrastive loss, which needs two more views of each image. Needs a run."""
    references: int = 512
    """Number of images that are the negatives in every image's loss."""
    lof: bool = False
    """Also measure the local outlier factor."""
    map: bool = True
    """Also compute a map of the images. It takes about 4 s on a core for 3,000 images and 36 s for 100,000
    (docs/results/neighbors.md)."""
    duplicates: bool = True
    """Also find near-duplicates. This decodes similar images again to compare their pixels."""
    image_size: int | None = None
    """Side of the view in pixels, for pretrained encoders that accept more than one size. By default the encoder's
    size, and 96 for images of at most 96 px."""
    batch_size: int = 256
    """Images per forward pass."""
    amp: Amp = "none"
    """Mixed precision. none gives equal features on every machine; auto uses bf16 if it is clearly faster on this
    machine, which changes features slightly (cosine to float32 0.99 or more for the default encoder)."""
    seed: int = 0
    """Seed of augmented views, negatives and the start of the map."""

    def __post_init__(self) -> None:
        check_numbers(self, image_size=1)
        if not self.k or min(self.k) < 1:
            raise InputError(f"--k is {self.k}: give one or more numbers of neighbors, each 1 or more")
        for name in ("views", "checkpoints", "references", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give 1 or more")
        for ratio in self.ratios or ():
            if not 0 <= ratio < 1:
                raise InputError(f"--ratios holds {ratio}: give shares in [0, 1); 0.9 removes nine weights in ten")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: give 0 or more")

    def needs_run(self) -> str | None:
        """The first option that requires a run; None if any encoder works."""
        wishes = {
            "--score loss": self.score == "loss",
            "--loss": self.loss,
            "--projection": self.projection,
            "--views": self.views > 1,
            "--checkpoints": self.checkpoints > 1,
        }
        return next((option for option, wished in wishes.items() if wished), None)


Method = Literal[
    "random",
    "rarity",
    "sampled",
    "clusters",
    "k_center",
    "weighted",
    "both",
    "typicality",
    "coverage",
    "mixed",
    "kinds",
]


DEFAULT: Final[Method] = "typicality"
"""Default method. With features of the pretrained encoder, it trains the best classifier among the methods that match
random choices in accuracy on rare classes and in classes found; `coverage` equals it within the noise
(docs/results/selection.md). `k_center` and `mixed` find more of the rare classes."""


MIN_IMAGES: Final = 50
"""Minimum number of images for meaningful clusters and neighbors."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Configuration of a diagnosis.

    Example:
        >>> config = sdclr.DiagnoseConfig(images=5000, alignment=True)
        >>> config.part
        3000
    """

    images: int = 30_000
    """Largest number of images to read; larger collections are sampled at random."""
    part: int = 3000
    """Number of images for an index, which depends on it. Indices are averaged over disjoint parts of this size."""
    k: int = 10
    """Number of neighbors for an image's distance."""
    clusters: int = 20
    """Number of k-means clusters for which quality is listed."""
    alignment: bool = False
    """Also draw two augmented views of each image and measure the distance of their features. Takes twice as long."""
    seed: int = 0
    """Seed of the sample of images and of the parts."""
    batch_size: int = 512
    """Images per forward pass."""

    def __post_init__(self) -> None:
        check_numbers(self, seed=0)
        if self.part < MIN_IMAGES or self.images < self.part:
            raise InputError(
                f"--part {self.part} of --images {self.images}: parts hold {MIN_IMAGES} images or more, and no more "
                "than are read"
            )
        if self.k < 1 or self.clusters < 2 or self.batch_size < 1:
            raise InputError("--k and --batch-size are 1 or more, --clusters 2 or more")
