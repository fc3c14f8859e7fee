"""A whole epoch on small images, from a Parquet file to a trained network: `pretrain` and a loop with lightly."""

import io
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdclr import pretrain
from sdclr.data.sources import ParquetSource
from sdclr.training.config import Runtime
from sdclr.views.config import ViewConfig
from speed_harness import Candidate, Comparison, Effort, Table, compare
from speed_lightly import LightlyTraining
from speed_steps import NAMES, Precision, StepSize, configure
from speed_views import lightly_transform


@dataclass(frozen=True, kw_only=True)
class EpochSize:
    """A set of images, and the network of the epoch."""

    step: StepSize
    images: int
    ours: tuple[Precision, ...] = ("bf16", "none")
    """Precisions of `pretrain`; bf16 is its default if the hardware has units for it."""
    theirs: tuple[Precision, ...] = ("none", "bf16")
    """Precisions of the loop with lightly; its default is float32."""
    workers: int = 1
    """Number of processes that draw lightly's views."""

    def __str__(self) -> str:
        return f"{self.images:,} images, {self.step}"


@dataclass
class Epoch:
    """One method of training for an epoch, which records the time of the steps alone."""

    run: Callable[[], float]
    """Trains, and returns the seconds from the first step to the last."""
    steps: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        self.steps.append(self.run())


def compare_epochs(file: Path, size: EpochSize, folder: Path, effort: Effort) -> tuple[Comparison, Table]:
    """Images per second of a whole epoch.

    Args:
        file: A Parquet file of `size.images` images; see `write_images`.
        size: Images and network.
        folder: Folder of the runs; each is removed before the next.
        effort: Duration of the measurement.

    Returns:
        Images per second, including all work before the first and after the last step; and a table that separates
        these parts.
    """
    run = folder / "run"
    ours = {f"sdclr pretrain, {NAMES[amp]}": partial(our_epoch, file, size, amp, run) for amp in size.ours}
    theirs = {f"lightly, {NAMES[amp]}": partial(their_epoch, file, size, amp) for amp in size.theirs}
    epochs = {name: Epoch(way) for name, way in {**ours, **theirs}.items()}
    candidates = [
        Candidate(name, epoch, units=size.images, prepare=lambda: shutil.rmtree(run, ignore_errors=True))
        for name, epoch in epochs.items()
    ]
    compared = compare(f"Whole epoch, {size}", _note(size), "/s", candidates, effort)
    return compared, _shares(compared, epochs, size)


def our_epoch(file: Path, size: EpochSize, amp: Precision, folder: Path) -> float:
    """SDCLR by `pretrain`, from the file to an encoder on disk. Returns the seconds of the steps, from its log."""
    config = configure("sdclr", size.step)
    # The log has one line, at the epoch's end, with the speed of all steps.
    runtime = Runtime(device="cpu", amp=amp, log_steps=size.images, progress=False)
    run = pretrain(ParquetSource(file), config, run=folder, runtime=runtime)
    (line,) = run.metrics()
    return float(line["step"] * size.step.batch / line["images_per_second"])


def their_epoch(file: Path, size: EpochSize, amp: Precision) -> float:
    """SimCLR with lightly's transform, head and loss, and torch's DataLoader. Returns the seconds of the steps."""
    images = EncodedImages(file, ViewConfig(image_size=size.step.image_size))
    loader = DataLoader(images, batch_size=size.step.batch, shuffle=True, drop_last=True, num_workers=size.workers)
    training = LightlyTraining(size.step, amp=amp)
    start = time.perf_counter()
    for view1, view2 in loader:
        training.step(view1, view2)
    return time.perf_counter() - start


class EncodedImages(Dataset[list[Tensor]]):
    """Two of lightly's views of encoded images in a Parquet file. Each image is decoded at every access."""

    def __init__(self, file: Path, config: ViewConfig) -> None:
        self.encoded: list[bytes] = [row["bytes"] for row in pq.read_table(file).column("image").to_pylist()]
        self.transform = lightly_transform(config, normalize=True)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> list[Tensor]:
        views: list[Tensor] = self.transform(Image.open(io.BytesIO(self.encoded[index])).convert("RGB"))
        return views


def write_images(file: Path, count: int, *, data: Path | None, images: Tensor) -> None:
    """Write a Parquet file of small images in the Hugging Face layout, for both methods.

    Args:
        file: The file to write.
        count: Number of images.
        data: Folder of CIFAR-10, whose first encoded training images are used.
        images: `(N, 3, H, W)` uint8, used as PNG and repeated if there is no such folder.
    """
    if data is not None:
        table = pq.read_table(sorted(data.glob("train*.parquet")), columns=["image"]).slice(0, count)
    else:
        rows = [{"bytes": _png(images[index % len(images)]), "path": None} for index in range(count)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, kind)})
    pq.write_table(table, file, row_group_size=1000)


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    return file.getvalue()


def _note(size: EpochSize) -> str:
    return (
        "From one parquet file to a trained network. `sdclr pretrain` reads every image, keeps them decoded in "
        "memory, trains SDCLR and writes checkpoint, log and encoder; the time includes all of it. The loop with "
        "lightly trains SimCLR with its SimCLRTransform (the same probabilities and strengths) on images that Pillow "
        f"decodes each time, torch's DataLoader with {size.workers} worker{'s' * (size.workers != 1)}, its head, its "
        "loss and torch's SGD, and writes nothing. bf16 is autocast on both sides. Threads of torch on both sides: "
        f"{torch.get_num_threads()}."
    )


def _shares(compared: Comparison, epochs: dict[str, Epoch], size: EpochSize) -> Table:
    rows = []
    for name, epoch in epochs.items():
        whole = size.images / compared.median(name)
        steps = statistics.median(epoch.steps[-len(compared.samples[name]) :])
        rows.append((name, whole, whole - steps, size.images / steps))
    return Table(
        title=f"Start and steps, {size}",
        note="The time of an epoch, its part outside the steps (once per run), and the speed of the steps.",
        heading=("", "seconds", "outside the steps", "images per second in the steps"),
        rows=rows,
    )
