"""Options of `sdclr embed`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdclr.choices import Amp
from sdclr.cli.options import Device, EncoderName, Images, Workers


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of images to a Parquet file: id, embedding, and label if there is one.

    A stopped command resumes when it is run again. With several processes, each writes a shard into a folder.

    For example:
        sdclr embed ./images --out embeddings.parquet
        torchrun --nproc-per-node 4 -m sdclr -- embed ./images --encoder runs/a --out embeddings/
    """

    images: Images
    encoder: EncoderName = None
    out: Path
    """The Parquet file to write, with the suffix .parquet, or a folder for shards."""
    branch: Literal["dense", "sparse"] = "dense"
    """The encoder, or the pruned twin of a run's encoder."""
    image_size: int | None = None
    """Side of the view in pixels, for pretrained encoders that accept more than one size."""
    batch_size: int = 512
    """Images in a forward pass."""
    amp: Amp = "auto"
    """Mixed precision; auto uses bf16 if it is clearly faster: as timed on a CPU, on GPUs from Ampere on."""
    device: Device = "auto"
    workers: Workers = None
