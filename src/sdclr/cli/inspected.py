"""The output of `sdclr info` on a collection and on the time that commands would take."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any, Final

from rich.console import Console
from rich.filesize import decimal

from sdclr.cli.commands.info import Info
from sdclr.cli.fields import field, shortened
from sdclr.cli.machine import machine
from sdclr.data.inventory import Inventory
from sdclr.decoding.decode import BadImage
from sdclr.environment import private_removed
from sdclr.features.embeddings import open_images
from sdclr.features.inspect import inspect_images
from sdclr.progress import duration
from sdclr.training.costs import Cost, estimate_costs
from sdclr.visible import counted, visible

_LISTED: Final = 5
"""Maximum number of files and groups in a list; --json contains all."""
_COLUMNS: Final = 66
"""Columns of a value, next to the name of the field."""


def tell_collection(command: Info, console: Console) -> dict[str, Any]:
    """Inspect the images, print a description, and measure how long commands would take.

    Returns:
        The same information for JSON.

    Raises:
        InputError: If there are no such images, or no such device.
    """
    device, workers = machine(command.device, command.workers)
    found = inspect_images(command.images or "", decode=command.decode, workers=workers)
    for line in _inventory(found, private_removed(command.images or "")):
        console.print(line, markup=False)
    told: dict[str, Any] = {"images": found.to_json()}
    if command.measure and found.vector is None and found.sizes:
        begun = monotonic()
        costs = estimate_costs(
            open_images(command.images or ""), encoder=command.encoder, device=device, workers=workers
        )
        console.print(f"\nOn this machine, measured just now in {duration(monotonic() - begun)}:")
        for line in map(_cost, costs):
            console.print(line, markup=False)
        told["costs"] = [asdict(cost) for cost in costs]
    console.print()
    return told


def _cost(cost: Cost) -> str:
    if cost.seconds is None:
        return field(cost.command, f"no estimate: {cost.work}")
    time = f"about {duration(cost.seconds)}" if cost.seconds >= 1 else "less than a second"
    return field(cost.command, f"{time} {cost.work}")


def _inventory(found: Inventory, given: str) -> Iterator[str]:
    looked = (
        "" if found.whole or not found.looked_at else f"; {found.looked_at:,} of them, evenly spaced, were looked at"
    )
    yield field("images", f"{found.images:,} in {shortened(given, _COLUMNS)} ({found.kind}){looked}")
    if found.vector is not None:
        yield field("vectors", f"{found.images:,} of {found.vector:,} numbers")
        if not found.looked_at:
            yield field("pictures", "none: the ids name no image files here")
            return
    yield from _seen(found)
    yield from _troubles(found)
    yield field("disk", _disk(found))


def _seen(found: Inventory) -> Iterator[str]:
    """Sizes, formats, modes and classes."""
    sides = found.sides()
    if sides is not None:
        sizes = [f"{width}x{height}" for width, height in found.sizes]
        if len(sizes) == 1:
            kept = ": small, held in memory in training" if found.small else ""
            yield field("sizes", f"all {sizes[0]} px{kept}")
        else:
            low, middle, high = sides
            shorter = f"{low:,} px" if low == high else f"{low:,} to {high:,} px, median {middle:,}"
            longer = max(max(size) for size in found.sizes)
            yield field("sizes", f"shorter side {shorter}; longer side up to {longer:,} px; most often {sizes[0]}")
        yield field("formats", _counts(found.formats))
        yield field("color modes", _counts(found.modes))
    if found.classes:
        counts = found.classes.values()
        spread = (
            f"of {min(counts):,} to {max(counts):,} images" if len(set(counts)) > 1 else f"of {max(counts):,} images"
        )
        names = ", ".join(shortened(visible(name), 20) for name in list(found.classes)[:_LISTED])
        more = ", …" if len(found.classes) > _LISTED else ""
        yield field("classes", f"{len(found.classes):,} {spread} ({names}{more})")


def _troubles(found: Inventory) -> Iterator[str]:
    """Unreadable images, identical files, and skipped files."""
    how = "all were decoded" if found.decoded else "by their headers; --decode also finds damage behind them"
    yield field("unreadable", f"{len(found.unreadable) or 'none'} ({how})")
    yield from _named(found.unreadable)
    if found.passed_over:
        yield field("skipped", f"{len(found.passed_over):,} other files and folders")
        yield from _named(found.passed_over)
    if found.animated:
        yield field("animated", f"{found.animated:,}, of which the first frame is used")
    if not found.duplicates:
        yield field("copies", "none by bytes")
        return
    yield field(
        "copies",
        f"{counted(len(found.duplicates), 'group')} of files that are equal byte for byte; "
        f"{found.spare:,} could be dropped",
    )
    for group in found.duplicates[:_LISTED]:
        names = " = ".join(shortened(visible(name), _COLUMNS // 2 - 2) for name in group[:2])
        yield field("", names + (f" = {len(group) - 2:,} more" if len(group) > 2 else ""))
    yield from _more(found.duplicates)


def _named(images: Sequence[BadImage]) -> Iterator[str]:
    for image in images[:_LISTED]:
        reason = shortened(visible(image.reason), 2 * _COLUMNS // 3)
        yield field("", f"{shortened(visible(image.id), _COLUMNS - len(reason) - 2)}: {reason}")
    yield from _more(images)


def _more(things: Sequence[object]) -> Iterable[str]:
    if len(things) > _LISTED:
        yield field("", f"… and {len(things) - _LISTED:,} more; --json FILE lists all")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _disk(found: Inventory) -> str:
    about = "" if found.whole else "about "
    used = found.bytes * found.images / max(1, found.looked_at)
    place = "in memory" if found.free is None else "used"
    free = "" if found.free is None else f", {decimal(found.free)} free there"
    return f"{about}{decimal(round(used))} {place}{free}; {decimal(found.free_here)} free in this folder"
