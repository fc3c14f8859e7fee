"""Messages of commands: the encoder, its cost, and the results."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from sdclr.choices import Amp
from sdclr.cli.talk import note
from sdclr.data.sources import Source
from sdclr.features.embeddings import EmbeddedImages, Embeddings
from sdclr.features.rate import seconds_an_image
from sdclr.mining.scores import Scores
from sdclr.progress import duration
from sdclr.training.resolve import ResolvedEncoder
from sdclr.visible import counted, visible

_SHOWN: Final = 10
"""Number of listed images."""
_LISTED_KINDS: Final = 8
_LOOKED: Final = 100
"""Number of ids that are checked for image files."""


def tell_encoder(
    used: ResolvedEncoder | Embeddings,
    source: Source,
    *,
    device: torch.device,
    workers: int,
    amp: Amp,
    console: Console,
    images: int | None = None,
    read: str | Path | None = None,
    timed: bool = True,
    passes: int = 1,
) -> None:
    """Print the encoder with its license and origin, and the estimated time, before the work starts.

    Args:
        used: The encoder, or embeddings.
        source: The images.
        device: Device of the encoder.
        workers: Number of processes that decode.
        amp: Precision.
        console: The console.
        images: Number of images to read; by default all.
        read: Folder of features from an earlier command, which are reused.
        timed: Whether to measure the speed.
        passes: Forward passes per image.
    """
    if isinstance(used, Embeddings):
        count, width = used.values.shape
        note(console, f"embeddings: {used.name}, {count:,} vectors of {width} numbers")
        return
    encoder, seen = used.encoder, used.preprocessing
    origin = f"run {used.name}" if used.run is not None else used.name
    if encoder.origin is not None:
        origin = encoder.origin.sentence if used.run is None else f"{origin}, started from {encoder.origin.sentence}"
    note(console, f"encoder: {origin}")
    if read is not None:
        note(console, f"cost:    none: no image is new or changed, so the features in {read} are used again")
        return
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    size = f"{weights / 1e6:.1f} million weights, views of {seen.image_size} px"
    if not timed:
        note(console, f"cost:    {size}")
        return
    count = len(source) if images is None else min(images, len(source))
    rate = 1 / seconds_an_image(encoder, seen, source, device=device, workers=workers, amp=amp, passes=passes)
    note(console, f"cost:    {size}, about {rate:.0f} images/s: {duration(count / rate)} for {counted(count)}")


def found(scores: Scores) -> Iterator[str]:
    """Summary lines of a ranking: number of images, kinds, and the rarest images."""
    yield f"{counted(len(scores) - len(scores.bad))} ranked, {len(scores.bad):,} unreadable{_first(scores.bad)}."
    if len(scores.groups) > 1:
        sizes = [f"{group.size:,}" for group in sorted(scores.groups, key=lambda group: group.size)]
        more = f", … (the largest {sizes[-1]})" if len(sizes) > _LISTED_KINDS else ""
        yield f"{len(sizes)} separate kinds, with {', '.join(sizes[:_LISTED_KINDS])}{more} images."
    else:
        nearest = {"kinds": "their neighbors", "distance": "their neighbors", "against": "the nearest old images"}
        how = f" and are ranked by distance to {nearest[scores.score]}" if scores.score in nearest else ""
        yield f"No separate kinds: the images form one connected group{how}."
    if len(scores.odd):
        yield f"{counted(len(scores.odd), 'odd image')} far from all others."
    if scores.duplicates:
        yield duplicates_line(scores.duplicates)
    search = scores.about.get("neighbors", {})
    if search.get("search") == "approximate":
        yield (
            f"Neighbors were searched approximately: {search['recall']:.1%} of the true ones were found (by 1,000 "
            "images against an exact search)."
        )
    yield "The rarest images:"
    for position in scores.order()[:_SHOWN].tolist():
        yield f"  {scores.rank[position]:>3}  {visible(scores.ids[position])}"


def _first(bad: Mapping[str, str]) -> str:
    """The first unreadable image and its reason, in parentheses; empty if there is none."""
    if not bad:
        return ""
    image_id, reason = next(iter(bad.items()))
    return f" ({'' if len(bad) == 1 else 'the first: '}{visible(image_id)}: {visible(reason)})"


def duplicates_line(groups: Sequence[Sequence[int]]) -> str:
    """A line with the number of groups of near-duplicates, and of images that could be dropped."""
    if not groups:
        return "No near-duplicates."
    spare = sum(len(group) - 1 for group in groups)
    return f"{counted(len(groups), 'group')} of near-duplicates: {counted(spare)} could be dropped."


def pictureless(source: Source) -> str | None:
    """A message if the ids of embeddings are not image files here, so that a page has no pictures; otherwise None."""
    if not isinstance(source, EmbeddedImages) or any(source.file(index) for index in range(min(len(source), _LOOKED))):
        return None
    return (
        f"no pictures and no near-duplicates: the ids of {source.name} name no image files here; name the images "
        f"first: sdclr mine IMAGES --encoder {source.name}"
    )
