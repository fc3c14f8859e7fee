"""The plan that a command prints before it starts: the images, the network, the machine, and the output folder."""

from pathlib import Path

import torch
from rich.console import Console

from sdclr.choices import Amp
from sdclr.cli.talk import note
from sdclr.cli.told import tell_encoder
from sdclr.data.intensities import with_intensities
from sdclr.data.inventory import about_files
from sdclr.data.scan import first_shapes
from sdclr.data.sources import Source
from sdclr.encoders.config import EncoderConfig
from sdclr.encoders.create import create_encoder
from sdclr.fastest import worth_measuring
from sdclr.features.embeddings import EmbeddedImages, Embeddings
from sdclr.precision import autocast_dtype
from sdclr.training.checkpoint import last_checkpoint, step_of
from sdclr.training.config import PretrainConfig
from sdclr.training.distributed import resolve_device
from sdclr.training.feed import default_workers
from sdclr.training.opening import as_trained
from sdclr.training.resolve import ResolvedEncoder
from sdclr.training.run import Run
from sdclr.training.runtime import Runtime
from sdclr.visible import counted


def tell_images(source: Source, console: Console, name: str = "images") -> None:
    """Print the number and sizes of the images, and the skipped files."""
    if isinstance(source, EmbeddedImages):
        return
    parts = [f"{counted(len(source))} in {source.name}"]
    skipped = len(getattr(source, "skipped", ()))
    if skipped:
        parts.append(f"{counted(skipped, 'other file')} skipped")
    parts.append(_sizes(source))
    if source.classes:
        parts.append(counted(len(source.classes), "class"))
    note(console, f"{name + ':':8} {', '.join(filter(None, parts))}")
    for line in about_files(source):
        note(console, f"{'':8} {line}")


def tell_machine(console: Console, device: torch.device, workers: int, amp: Amp) -> None:
    """Print device, precision, and the number of decoding processes."""
    where = counted(torch.get_num_threads(), "thread") if device.type == "cpu" else torch.cuda.get_device_name(device)
    decode = f"{counted(workers, 'process')} {'decodes' if workers == 1 else 'decode'}" if workers else "no processes"
    if amp == "auto" and worth_measuring(device):
        precision = "float32 or bfloat16, whichever is faster"
    else:
        precision = str(autocast_dtype(amp, device) or torch.float32).removeprefix("torch.")
    note(console, f"machine: {device}, {where}, {precision}, {decode}")


def tell_output(console: Console, place: str | Path | None) -> None:
    """Print the output place."""
    note(console, f"output:  {place if place is not None else 'none: give --out'}")


def tell_plan(
    console: Console,
    source: Source,
    used: ResolvedEncoder | Embeddings,
    *,
    device: torch.device,
    workers: int,
    amp: Amp,
    out: str | Path | None,
    images: int | None = None,
    read: str | Path | None = None,
    passes: int = 1,
) -> None:
    """Print the plan of a command that encodes images.

    Args:
        console: The console.
        source: The images.
        used: The encoder, or embeddings.
        device: Device of the encoder.
        workers: Number of processes that decode.
        amp: Precision.
        out: Output place; None if nothing is written.
        images: Number of images to read; by default all.
        read: Folder of features from an earlier command, which are reused, so that no image is read.
        passes: Forward passes per image.
    """
    if isinstance(used, ResolvedEncoder):
        source = with_intensities(source, used.intensities)
    tell_images(source, console)
    tell_encoder(
        used,
        source,
        device=device,
        workers=workers,
        amp=amp,
        console=console,
        images=images,
        read=read,
        passes=passes,
    )
    if isinstance(used, ResolvedEncoder):
        tell_machine(console, device, workers, amp)
    tell_output(console, out)


def tell_pretraining(
    console: Console,
    source: Source,
    config: PretrainConfig,
    runtime: Runtime,
    folder: Path,
    *,
    minutes: float | None = None,
    outside: Source | None = None,
) -> None:
    """Print the plan of a pre-training.

    Args:
        console: The console.
        source: The images.
        config: Settings of the run.
        runtime: Settings of the execution.
        folder: Folder of the run.
        minutes: Time budget, if it determines the length.
        outside: Outside images, if there are any.
    """
    run, device = Run(folder), resolve_device(runtime.device)
    source = as_trained(run, source)
    workers = default_workers(device) if runtime.workers is None else runtime.workers
    tell_images(source, console)
    if outside is not None:
        tell_images(outside, console, "outside")
    size = config.views.image_size
    weights = _parameters(config.encoder, size)
    note(console, f"network: {config.encoder.name}, {weights / 1e6:.1f} million weights, views of {size} px")
    steps = len(source) // config.batch_size
    batches = f"batches of {config.batch_size}"
    length = f"{counted(config.epochs, 'epoch')} of {counted(steps, 'step')}, {batches}"
    if minutes is not None:
        length = f"what fits into {minutes:g} min, {batches}"
    else:
        length += f", {config.total_steps(steps):,} steps in all"
    note(console, f"length:  {length}; {config.method}")
    tell_machine(console, device, workers, runtime.amp)
    newest = last_checkpoint(run.checkpoints)
    resumed = "" if newest is None else f" (resumes after step {step_of(newest):,})"
    state = " (finished: nothing is left to do)" if run.finished else resumed
    tell_output(console, f"{run.path}{state}")


def tell_queue(console: Console, runtime: Runtime, folder: Path, *, jobs: int) -> None:
    """Print the plan of several runs, below their table."""
    device = resolve_device(runtime.device)
    workers = default_workers() if runtime.workers is None else runtime.workers
    tell_machine(console, device, workers, runtime.amp)
    together = f", {jobs} at the same time" if jobs > 1 else ""
    tell_output(console, f"{folder}{together}")


def _parameters(config: EncoderConfig, image_size: int) -> int:
    with torch.device("meta"):  # uses no memory and no random numbers
        encoder = create_encoder(config, image_size)
    return sum(parameter.numel() for parameter in encoder.parameters())


def _sizes(source: Source) -> str:
    """Sizes of the first images."""
    shapes = sorted(set(first_shapes(source)), key=lambda shape: shape[0] * shape[1])
    if not shapes:
        return "none of the first can be decoded"
    sizes = [f"{width:,}x{height:,}" for height, width in (shapes[0], shapes[-1])]
    return f"{sizes[0]} px" if len(shapes) == 1 else f"{sizes[0]} to {sizes[1]} px (the first 16)"
