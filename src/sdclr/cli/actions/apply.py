"""Action of `sdclr apply`, which uses the marks made on a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from sdclr.cli.commands.apply import Apply
from sdclr.marks.apply import Applied, apply_marks
from sdclr.marks.moves import undo_moves
from sdclr.marks.place import TABLE, How
from sdclr.marks.table import read_marks
from sdclr.visible import visible

_LISTED: Final = 10
"""Maximum number of listed images or labels."""


def run(command: Apply, console: Console) -> None:
    """Apply the marks, and print and write the results."""
    if command.undo is not None:
        _undo(command.undo, console)
        return
    assert command.marks is not None  # noqa: S101  # for mypy: __post_init__ has checked
    how: How = "copy" if command.copy else "hardlink" if command.hard_links else "symlink"
    done = apply_marks(
        read_marks(command.marks, *command.also),
        command.images,
        manifest=command.manifest,
        links=command.links,
        classes=command.classes,
        unlabeled=command.unlabeled,
        how=how,
        drop_list=command.drop_list,
        move_dropped=command.move_dropped,
        only_marked=command.only_marked,
        dry_run=command.dry_run,
    )
    for line in (*_said(done), *_trouble(done), *_written(done, command)):
        console.print(line, markup=False)


def _said(done: Applied) -> Iterator[str]:
    marks, images = done.marks, done.images
    labels = marks.labels()
    yield (
        f"marks:   {len(marks):,} images: {marks.count('keep'):,} keep, {marks.count('drop'):,} drop, "
        f"{labels.total():,} with a label"
    )
    if images.silent:
        yield f"         rows without mark and label: {images.silent:,}"
    if labels:
        named = [f"{visible(label)} {count:,}" for label, count in list(labels.items())[:_LISTED]]
        more = f" and {len(labels) - _LISTED:,} more" if len(labels) > _LISTED else ""
        yield f"labels:  {', '.join(named)}{more}"
    whose = f"images of {images.source.name}" if images.source is not None else "marked images"
    yield f"kept:    {len(images.kept):,} {whose}; {len(images.dropped):,} dropped"


def _trouble(done: Applied) -> Iterator[str]:
    images = done.images
    if images.missing:
        files = [str(picture.file) for picture in images.missing]
        hint = "" if images.source is not None else "; if the images have moved, name them: sdclr apply MARKS IMAGES"
        yield f"missing: {len(files):,} (no such file{hint}): {_first(files)}"
    if images.unknown:
        rows = [f"{row.name} ({row.where})" for row in images.unknown]
        whose = images.source.name if images.source is not None else "the collection"
        yield f"unknown: {len(rows):,} (marked, but not in {whose}): {_first(rows)}"
    if done.unreadable:
        broken = [f"{picture.id} ({reason})" for picture, reason in done.unreadable]
        yield f"left out: {len(broken):,} (cannot be read): {_first(broken)}"
    yield from done.notes


def _written(done: Applied, command: Apply) -> Iterator[str]:
    asked = (command.manifest, command.links, command.classes, command.drop_list, command.move_dropped)
    if not any(asked):
        yield (
            "Nothing is written. Add --manifest FILE, --links FOLDER, --classes FOLDER, --drop-list FILE or "
            "--move-dropped FOLDER."
        )
        return
    if command.dry_run:
        yield "This was a dry run: nothing is written."
        return
    titles = {"manifest": "manifest", "links": "links", "classes": "classes", "drop_list": "drop list"}
    for name, title in titles.items():
        if name in done.written:
            yield f"{title + ':':<10} {done.written[name]}"
    if "classes" in done.written:
        changed = [label for label, folder in done.folders.items() if label != folder]
        if changed:
            yield f"           labels with folders of another name, listed in {TABLE} there: {len(changed):,}"
        if done.unlabeled and command.unlabeled is None:
            yield f"           kept images without a label, in no class folder: {done.unlabeled:,}"
        if len(done.folders) == 1 and command.unlabeled is None:
            yield "           with a single class, open its manifest.csv: folders show classes only if there are two"
    if command.move_dropped is not None:
        log = done.written.get("move_dropped")
        undo = f"; undo with: sdclr apply --undo {log}" if log is not None else ""
        yield f"moved:     {done.moved:,} of {len(done.images.dropped):,} dropped to {command.move_dropped}{undo}"


def _undo(log: Path, console: Console) -> None:
    done = undo_moves(log)
    lines = [f"moved back: {len(done.returned):,}; in their old place already: {len(done.there):,}"]
    if done.taken:
        lines.append(f"not moved, since their old place is taken: {len(done.taken):,}: {_first(done.taken)}")
    if done.missing:
        lines.append(f"in neither place: {len(done.missing):,}: {_first(done.missing)}")
    for line in lines:
        console.print(line, markup=False)


def _first(names: Sequence[object]) -> str:
    """The first names: a single one on the same line, several on separate lines."""
    listed = [visible(str(name)) for name in names[:_LISTED]]
    more = [f"and {len(names) - _LISTED:,} more"] if len(names) > _LISTED else []
    return "".join(f"\n         {name}" for name in (*listed, *more)) if len(listed) > 1 else listed[0]
