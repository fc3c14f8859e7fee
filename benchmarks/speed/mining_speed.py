"""Feature extraction: images per second compared with a plain torchvision loop, and memory for many images.

    python benchmarks/speed/mining_speed.py --data DIR --folder /tmp/jpegs [--quick] [--workers N] [--threads N]

DIR contains CIFAR-10 as Parquet files. The folder is filled with JPEGs of 500 x 375 px if it has none. Both loops run
the same random ResNet-18 in the same precision, decode with the same number of workers and end with all features in
memory. The plain loop follows torchvision's documentation: a Dataset that decodes with Pillow, torchvision's
transforms, a DataLoader, the encoder in eval mode. It is also timed in float32, its usual precision. Linux only.
"""

import argparse
import copy
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sdclr.choices import Amp
from sdclr.data.sources import ArraySource, FolderSource, ParquetSource, Source, SubsetSource
from sdclr.encoders import EncoderConfig, Preprocessing, create_encoder
from sdclr.features.extract import extract_features, feature_batches
from sdclr.precision import autocast_dtype
from speed_harness import Candidate, Comparison, Effort, Table, compare
from speed_large import make_jpegs
from speed_resident import MIB, peak, resident

BATCH = 256
OURS, PLAIN, USUAL = "sdclr extract_features", "torchvision loop", "torchvision loop, float32"


class Encoded(Dataset[tuple[torch.Tensor, int]]):
    """Encoded images, decoded by Pillow and transformed by torchvision, as in its ImageFolder."""

    def __init__(self, source: Source, image_size: int, *, small: bool) -> None:
        self.images = _bytes_of(source)
        bicubic = v2.InterpolationMode.BICUBIC
        whole = [v2.Resize((image_size, image_size), bicubic)]
        cut = [v2.Resize(round(image_size * 256 / 224), bicubic), v2.CenterCrop(image_size)]
        self.transform = v2.Compose(
            [*(whole if small else cut), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        entry = self.images[index]
        with Image.open(io.BytesIO(entry) if isinstance(entry, bytes) else entry) as image:
            return self.transform(image.convert("RGB")), index


def _bytes_of(source: Source) -> list[bytes | Path]:
    """Images for the plain loop: files, or PNG bytes in memory, which saves reading."""
    if isinstance(source, FolderSource):
        return [source._root / name for name in source.ids]  # noqa: SLF001  # the plain loop reads the files
    images = []
    for index in range(len(source)):
        encoded = io.BytesIO()
        Image.fromarray(source.image(index)).save(encoded, "PNG")
        images.append(encoded.getvalue())
    return images


def plain_loop(encoder: nn.Module, dataset: Encoded, *, workers: int, amp: Amp) -> torch.Tensor:
    """Features (N, D) as a user of torchvision would extract them."""
    dtype = autocast_dtype(amp, torch.device("cpu"))
    encoder.eval()
    features = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        for images, _ in DataLoader(dataset, batch_size=BATCH, num_workers=workers):
            features.append(encoder(images).float())
    return torch.cat(features)


def compare_extraction(
    source: Source, image_size: int, *, small: bool, width: int, workers: int, amp: Amp, effort: Effort
) -> Comparison:
    """Images per second. Each call processes all images.

    Args:
        source: The images.
        image_size: Side of the view.
        small: Whether images are resized whole, without a crop.
        width: Width of the ResNet.
        workers: Number of decoding processes of each loop.
        amp: Precision of the first two candidates.
        effort: Duration of the measurement.
    """
    torch.manual_seed(0)
    encoder = create_encoder(EncoderConfig(width=width), image_size)
    other = copy.deepcopy(encoder)
    dataset = Encoded(source, image_size, small=small)
    candidates = [
        Candidate(
            OURS,
            lambda: extract_features(
                encoder,
                source,
                preprocessing=Preprocessing(image_size=image_size),
                batch_size=BATCH,
                workers=workers,
                amp=amp,
            ),
            units=len(source),
        ),
        Candidate(PLAIN, lambda: plain_loop(other, dataset, workers=workers, amp=amp), units=len(source)),
        Candidate(USUAL, lambda: plain_loop(other, dataset, workers=workers, amp="none"), units=len(source)),
    ]
    precision = str(autocast_dtype(amp, torch.device("cpu")) or torch.float32).removeprefix("torch.")
    return compare(
        f"Features of {len(source)} images of {source.name}, {image_size} px",
        f"ResNet-18 of width {width}, batches of {BATCH}, {workers} workers, {torch.get_num_threads()} threads; the "
        f"first two in {precision}. Whole passes, decoding and the start of workers included.",
        "/s",
        candidates,
        effort,
    )


def memory(count: int) -> Table:
    """Peak memory of processing many images in a new process, which does not keep features."""
    rows = []
    for images in (count // 10, count):
        command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", str(images)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append((f"{images:,} images", f"{int(output) / MIB:.0f}"))
    return Table(
        title="Memory by number of images",
        note="Peak resident memory above that before the first batch: random images of 32 px, drawn as they are asked "
        "for, a quarter-width ResNet-18 at 16 px, features not kept.",
        heading=("", "MiB"),
        rows=rows,
    )


class _Drawn(ArraySource):
    """Any number of images, from a few in memory."""

    def __init__(self, count: int) -> None:
        few = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
        super().__init__(few)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def image(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        return super().image(index % 64, min_side=min_side)


def measure_memory(count: int) -> int:
    """Peak memory in this process, in bytes."""
    encoder = create_encoder(EncoderConfig(width=16), 16)
    before = resident()
    seen = 0
    for batch in feature_batches(
        encoder, _Drawn(count), preprocessing=Preprocessing(image_size=16), batch_size=BATCH, amp="auto"
    ):
        seen += len(batch.positions)
    if seen != count:
        raise RuntimeError(f"{seen} of {count} images seen")
    return max(0, peak() - before)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet files")
    parser.add_argument("--folder", type=Path, help="folder of the JPEGs; made if it is not there")
    parser.add_argument("--count", type=int, default=2000, help="number of JPEGs")
    parser.add_argument("--images", type=int, default=10_000, help="number of CIFAR-10 images")
    parser.add_argument("--large", type=int, default=60_000, help="number of images for the memory")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that decode")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the encoder")
    parser.add_argument("--amp", choices=("auto", "none", "bf16"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few images, one round")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of is not None:
        print(measure_memory(options.memory_of))
        return
    torch.set_num_threads(options.threads)
    if options.quick:
        options.count, options.images, options.large, options.rounds = 200, 1000, 3000, 1
    effort = Effort(rounds=options.rounds, seconds=600)
    how = {"workers": options.workers, "amp": options.amp, "effort": effort}
    if options.data is not None:
        source = SubsetSource(ParquetSource(options.data, split="train"), np.arange(options.images))
        _show(compare_extraction(source, 32, small=True, width=16, **how))
    if options.folder is not None:
        make_jpegs(options.folder, options.count, options.data)
        _show(compare_extraction(FolderSource(options.folder), 224, small=False, width=64, **how))
    _show(memory(options.large))


def _show(part: Comparison | Table) -> None:
    print(f"## {part.title}\n\n{part.note}\n\n{part.table()}\n", flush=True)


if __name__ == "__main__":
    main()
