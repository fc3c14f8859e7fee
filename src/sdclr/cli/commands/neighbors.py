"""Options of `sdclr neighbors`."""

from dataclasses import dataclass
from pathlib import Path

from sdclr.choices import Metric
from sdclr.cli.options import Device, EncoderName, MinedImages, Workers


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Find the images of a collection that are most similar to other images.

    Features that `sdclr mine` has stored are used again, except those of runs. IMAGES may also be embeddings that
    `sdclr embed` wrote.

    For example:
        sdclr neighbors ./images --queries ./images/0001.jpg birds/17.jpg --k 20
        sdclr neighbors embeddings.parquet --queries birds/17.jpg --out near.csv
        sdclr neighbors embeddings.parquet --encoder runs/a --queries strange.jpg
    """

    images: MinedImages
    encoder: EncoderName = None
    queries: tuple[str, ...]
    """Ids of images in the collection, or paths of other image files."""
    k: int = 10
    """Number of neighbors of each query."""
    metric: Metric = "cosine"
    """cosine: 1 minus the cosine; euclidean: the distance of the unnormalized features."""
    folder: Path | None = None
    """Folder of an earlier `sdclr mine`, whose features are used again; by default that of `sdclr mine`."""
    out: Path | None = None
    """A .csv or .parquet file to write; by default prints the neighbors."""
    device: Device = "auto"
    workers: Workers = None
