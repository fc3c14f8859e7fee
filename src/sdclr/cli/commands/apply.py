"""Options of `sdclr apply`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sdclr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Turn the marks that a page saved into a manifest, a folder of links, class folders or a list of images to drop.

    Without an output option it only prints the marks. Images without a mark are kept if IMAGES are given, and left out
    otherwise. No file is moved without --move-dropped, and none is deleted.

    For example:
        sdclr apply marks.csv
        sdclr apply marks.csv ./images --manifest kept.csv --drop-list drop.txt
        sdclr apply marks.csv --classes ./labeled --copy
        sdclr apply marks.csv ./images --move-dropped ./dropped
        sdclr apply --undo ./dropped/moved.csv
    """

    marks: Annotated[
        Path | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MARKS", help="A CSV file with a column id or path, and mark, label or drop."),
    ] = None
    images: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="IMAGES",
            help="The images that were marked, as for `sdclr mine`. Needed if they are not separate files, or have "
            "moved since.",
        ),
    ] = None
    also: tuple[Path, ...] = ()
    """Further files of marks; contradictory rows raise an error."""
    manifest: Path | None = None
    """A .csv or .parquet file that lists the kept images: path, id, label."""
    links: Path | None = None
    """A folder of links to the kept images."""
    classes: Path | None = None
    """A folder with a folder of links for each label. Kept images without a label are left out."""
    unlabeled: str | None = None
    """Name of a folder among the class folders for kept images without a label."""
    copy: bool = False
    """Copy files instead of linking them."""
    hard_links: bool = False
    """Make hard links instead of symbolic ones."""
    drop_list: Path | None = None
    """A file with the path of each dropped image, one per line; or a .csv file."""
    move_dropped: Path | None = None
    """A folder to move dropped files to. --undo with its moved.csv moves them back."""
    undo: Path | None = None
    """Move files back by this moved.csv, and do nothing else."""
    only_marked: bool = False
    """Leave out images of IMAGES that are not marked."""
    dry_run: bool = False
    """Check everything and print what would be done, without writing anything."""

    def __post_init__(self) -> None:
        if (self.undo is None) == (self.marks is None):
            raise InputError("sdclr apply: give either the CSV file of marks, or --undo with the log of earlier moves")
        if self.copy and self.hard_links:
            raise InputError("--copy and --hard-links exclude each other: give one of them")
