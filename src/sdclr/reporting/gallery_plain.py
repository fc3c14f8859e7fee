"""The page of rare images without scripts: static pictures of kinds, odd images and the rarest images."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdclr.reporting.gallery_data import FIRST_KINDS, FIRST_ODD, PageRows, Pictures
from sdclr.reporting.gallery_entries import GalleryEntries
from sdclr.visible import visible

_RAREST: Final = 72
_COPIES: Final = 12


class PlainPicture(NamedTuple):
    """One thumbnail, cut out of its sheet by a CSS class."""

    style: str
    """Name of the CSS class."""
    name: str
    """The image's id in readable form."""


class PlainSection(NamedTuple):
    """A heading and its pictures."""

    title: str
    pictures: list[PlainPicture]


class PlainGallery(NamedTuple):
    """The page without scripts."""

    styles: str
    sections: list[PlainSection]


def plain_gallery(entries: GalleryEntries, rows: PageRows, pictures: Pictures) -> PlainGallery:
    """Lay out the first kinds, odd images, near-duplicates and rarest images without scripts."""
    at = {row: place for place, row in enumerate(pictures.places.drawn().tolist())}  # the last thumbnail of a row
    sizes = pictures.thumbnails.sizes.tolist()
    used: dict[int, str] = {}

    def pictured(found: Iterable[int]) -> list[PlainPicture]:
        shown = []
        for row in found:
            place = at.get(row)
            if place is None or not sizes[place][0]:
                continue
            used.setdefault(place, _style(place, pictures))
            shown.append(PlainPicture(f"p{place}", visible(entries.ids[rows.positions[row]])))
        return shown

    sections: list[PlainSection] = []
    for group, examples in zip(reversed(entries.groups if rows.examples else ()), rows.examples, strict=True):
        if len(sections) < FIRST_KINDS:
            title = f"Kind {group.kind}: {group.size:,} images{', rare' if group.rare else ''}"
            sections.append(PlainSection(title, pictured(examples.tolist())))
    groups = [group[:2] for group in rows.duplicates[: _COPIES // 2]]
    copies: NDArray[np.int64] = np.concatenate([np.zeros(0, dtype=np.int64), *groups])
    further = {
        "Odd ones out": rows.odd[:FIRST_ODD],
        "Near-duplicates, in pairs": copies,
        "To label next": rows.label_next[:FIRST_ODD],
        "The rarest images": np.arange(min(_RAREST, len(rows.positions))),
    }
    sections += [PlainSection(title, pictured(found.tolist())) for title, found in further.items()]
    return PlainGallery("\n".join(used.values()), [section for section in sections if section.pictures])


def _style(place: int, pictures: Pictures) -> str:
    across = pictures.plan.across
    sheet, cell = divmod(place, pictures.plan.per_sheet)
    side = pictures.thumbnails.cells[sheet]
    width, height = pictures.thumbnails.sizes[place].tolist()
    left, top = side * (cell % across), side * (cell // across)
    address = f"{pictures.address}/{pictures.thumbnails.sheets[sheet]}"
    return f'.p{place}{{width:{width}px;height:{height}px;background:url("{address}") -{left}px -{top}px}}'
