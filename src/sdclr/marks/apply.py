"""Turn marks into a manifest, folders of links or copies, class folders, and a list of what to drop."""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from sdclr.data.annotations import encode_labels
from sdclr.data.sources import ImageSource, Source
from sdclr.errors import BadImageError, InputError
from sdclr.files import write_atomically, write_csv
from sdclr.marks.checks import check_targets
from sdclr.marks.match import Matched, Picture, match, open_collection
from sdclr.marks.moves import move_aside, plan_moves
from sdclr.marks.names import folder_names, relative_names
from sdclr.marks.place import RESERVED, TABLE, How, Placed, Written, check_folder, place, suffix_of, write_list
from sdclr.marks.rows import Marks
from sdclr.marks.table import read_marks

_LINE_BREAKS: Final = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")


@dataclass(frozen=True)
class Applied:
    """Result of `apply_marks`: the marks, their images, and the files written."""

    marks: Marks
    images: Matched
    """The marked images: kept, dropped, missing."""
    written: dict[str, Path] = field(default_factory=dict)
    """Output paths by option: "manifest", "links", "classes", "drop_list", "move_dropped" (the log)."""
    folders: dict[str, str] = field(default_factory=dict)
    """Label to class folder name."""
    unlabeled: int = 0
    """Number of kept images without a label; they are in a class folder only if `unlabeled` names one."""
    moved: int = 0
    """Number of dropped files that were moved."""
    unreadable: list[tuple[Picture, str]] = field(default_factory=list)
    """Unreadable images, which are in no folder, with the reason."""
    notes: list[str] = field(default_factory=list)
    """Notes for the caller, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Output paths and options; no output is written where the path is None."""

    manifest: Path | None = None
    links: Path | None = None
    classes: Path | None = None
    unlabeled: str | None = None
    how: How = "symlink"
    drop_list: Path | None = None
    move_dropped: Path | None = None

    def paths(self) -> dict[str, Path]:
        """Paths of the requested outputs by name."""
        named = {name: getattr(self, name) for name in ("manifest", "links", "classes", "drop_list", "move_dropped")}
        return {name: path for name, path in named.items() if path is not None}


def apply_marks(
    marks: Marks | str | Path,
    images: ImageSource | None = None,
    *,
    manifest: str | Path | None = None,
    links: str | Path | None = None,
    classes: str | Path | None = None,
    unlabeled: str | None = None,
    how: How = "symlink",
    drop_list: str | Path | None = None,
    move_dropped: str | Path | None = None,
    only_marked: bool = False,
    dry_run: bool = False,
) -> Applied:
    """Apply marks that a person made on a page of images.

    Images are kept unless they are marked `drop`. Without `images`, only marked images are used, with the paths from
    the marks. With `images`, every image of the collection is used: marks are matched by id, and unmarked images keep
    their labels from the collection. Images that are not individual files are written as files: encoded images as
    stored, others as PNG. Only `move_dropped` moves files. No file is deleted, and only an older manifest or list of
    the same name is replaced.

    Args:
        marks: Marks, or a file of them; see `read_marks`.
        images: The marked collection: any input of `open_source`, or embeddings whose ids name files.
        manifest: A .csv or .parquet file that lists the kept images: path (absolute), id, and label if any image has
            one. `open_source` reads it.
        links: A folder for the kept images, named by their ids.
        classes: A folder with one subfolder per label, for the labeled kept images. `open_source` reads it. Labels
            that are not valid folder names are changed; `classes.csv` inside maps folders to labels.
        unlabeled: A folder in `classes` for kept images without a label; by default they are left out.
        how: How image files are placed in these folders: as symbolic links, hard links or copies.
        drop_list: A file that lists the dropped images, one path per line (the id if an image is not a file); or a
            .csv file with the columns path, id.
        move_dropped: A folder to move dropped files to, named by their ids. `undo_moves` reverses this with its log.
        only_marked: Leave out images of the collection that are not marked.
        dry_run: Check everything, and write nothing.

    Returns:
        The images and the written outputs. Missing files are listed and left out.

    Raises:
        InputError: The marks contradict each other, belong to other images, or an output cannot be written safely. No
            file has been moved then; folders may be incomplete, and the same call continues them.

    Examples:
        >>> done = sdclr.apply_marks("marks.csv", "images", classes="labeled")
        >>> labeled = sdclr.open_source("labeled")
        >>> labeled.classes, len(labeled)  # two circles are rings now, and a square is dropped
        (('circle', 'ring', 'square', 'star'), 59)
    """
    marks = marks if isinstance(marks, Marks) else read_marks(marks)
    wanted = Outputs(
        manifest=_path(manifest),
        links=_path(links),
        classes=_path(classes),
        unlabeled=unlabeled,
        how=how,
        drop_list=_path(drop_list),
        move_dropped=_path(move_dropped),
    )
    source = None if images is None else open_collection(images)
    matched = match(marks, source, only_marked=only_marked)
    notes = check_targets(wanted.paths(), marks, matched, images)
    notes += _alike(picture.label for picture in matched.kept)
    plan = _plan(wanted, matched)
    if dry_run:
        return Applied(marks, matched, {}, plan.folders, plan.unlabeled, 0, plan.unreadable, notes)
    unreadable = [*plan.unreadable, *_write(wanted, matched, plan)]
    written = wanted.paths()
    if wanted.move_dropped is not None:
        del written["move_dropped"]
        if plan.moves:
            written["move_dropped"] = move_aside(plan.moves, wanted.move_dropped)
    seen = {picture.id: (picture, reason) for picture, reason in unreadable}
    return Applied(marks, matched, written, plan.folders, plan.unlabeled, len(plan.moves), list(seen.values()), notes)


@dataclass(frozen=True)
class _Plan:
    """Everything to write, checked before the first write."""

    links: list[Placed]
    classes: list[Placed]
    folders: dict[str, str]
    unlabeled: int
    moves: list[tuple[Path, str, str]]
    unreadable: list[tuple[Picture, str]]


def _plan(wanted: Outputs, matched: Matched) -> _Plan:
    kept, unreadable = list(matched.kept), []
    suffixes: list[str] = []
    if wanted.unlabeled is not None and wanted.classes is None:
        raise InputError(f"--unlabeled {wanted.unlabeled!r} names a folder in the class folders; add --classes FOLDER")
    if wanted.links is not None or wanted.classes is not None:
        if not kept:
            raise InputError(
                f"{wanted.links or wanted.classes}: no image is kept, so the folder would be empty; check the marks"
            )
        _need_files(kept, matched.source)
        readable = []
        for picture in kept:
            try:
                suffixes.append(suffix_of(picture, matched.source))
                readable.append(picture)
            except BadImageError as error:
                unreadable.append((picture, error.reason))
        kept = readable
    names = relative_names([picture.id for picture in kept], suffixes, reserved=RESERVED) if suffixes else []
    links = [Placed(picture, name) for picture, name in zip(kept, names, strict=True)] if wanted.links else []
    classes, folders = _classes(wanted, kept, suffixes) if wanted.classes else ([], {})
    for folder, placed in ((wanted.links, links), (wanted.classes, classes)):
        if folder is not None:
            check_folder(folder, [one.path for one in placed])
    if wanted.manifest is not None:
        _check_manifest(wanted.manifest, kept, placeable=bool(wanted.links or wanted.classes), matched=matched)
    if wanted.drop_list is not None:
        _check_drops(wanted.drop_list, matched.dropped)
    moves = [] if wanted.move_dropped is None else plan_moves(matched.dropped, wanted.move_dropped)
    missing_label = sum(not picture.label for picture in matched.kept)
    return _Plan(links, classes, folders, missing_label, moves, unreadable)


def _classes(wanted: Outputs, kept: Sequence[Picture], suffixes: Sequence[str]) -> tuple[list[Placed], dict[str, str]]:
    """Paths of the labeled images, and the folder of each label."""
    labels = {picture.label for picture in kept if picture.label}
    extra = wanted.unlabeled
    alike = extra is not None and extra.casefold() in {label.casefold() for label in labels}
    if extra is not None and (alike or not extra.strip() or folder_names([extra], reserved=RESERVED)[extra] != extra):
        why = "is a label too" if alike else "is not a valid folder name"
        raise InputError(f"--unlabeled {extra!r} {why}; give another name, such as unlabeled")
    folders = folder_names(labels | ({extra} if extra else set()), reserved=RESERVED)
    chosen = [(picture, suffix) for picture, suffix in zip(kept, suffixes, strict=True) if picture.label or extra]
    placed: dict[str, list[tuple[Picture, str]]] = {}
    for picture, suffix in chosen:
        placed.setdefault(folders[picture.label or str(extra)], []).append((picture, suffix))
    found = []
    for folder, several in placed.items():
        names = relative_names([picture.id for picture, _ in several], [suffix for _, suffix in several])
        found += [Placed(one, f"{folder}/{name}") for (one, _), name in zip(several, names, strict=True)]
    if not found:
        raise InputError(f"{wanted.classes}: no image that is kept has a label; label images on the page first")
    return found, {label: folder for label, folder in folders.items() if label != extra}


def _write(wanted: Outputs, matched: Matched, plan: _Plan) -> list[tuple[Picture, str]]:
    """Write every output, but move no files. Returns images that turned out to be unreadable."""
    unreadable: list[tuple[Picture, str]] = []
    at: dict[str, Path] = {}
    for folder, placed in ((wanted.classes, plan.classes), (wanted.links, plan.links)):
        if folder is None:
            continue
        written: Written = place(folder, placed, wanted.how, matched.source)
        write_list(folder, written.placed)
        unreadable += written.unreadable
        at |= {one.picture.id: folder.absolute() / one.path for one in written.placed}
        if folder is wanted.classes:
            _write_table(folder, written.placed, plan.folders)
    if wanted.manifest is not None:
        _write_manifest(wanted.manifest, matched.kept, at)
    if wanted.drop_list is not None:
        _write_drops(wanted.drop_list, matched.dropped)
    return unreadable


def _write_table(folder: Path, placed: Sequence[Placed], folders: dict[str, str]) -> None:
    counts: dict[str, int] = {}
    for one in placed:
        counts[one.picture.label] = counts.get(one.picture.label, 0) + 1
    rows = ((name, label, counts.get(label, 0)) for label, name in folders.items())
    write_csv(folder / TABLE, ("folder", "label", "images"), rows)


def _write_manifest(path: Path, kept: Sequence[Picture], at: dict[str, Path]) -> None:
    listed = [(picture, picture.file or at.get(picture.id)) for picture in kept]
    columns = {
        "path": [str(file) for _, file in listed if file is not None],
        "id": [picture.id for picture, file in listed if file is not None],
        "label": [picture.label or None for picture, file in listed if file is not None],
    }
    if not any(picture.label for picture in kept):
        del columns["label"]
    if path.suffix.lower() == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), buffer)
        write_atomically(path, buffer.getbuffer())
    else:
        write_csv(path, tuple(columns), zip(*columns.values(), strict=True), quote_all=True)


def _check_manifest(path: Path, kept: Sequence[Picture], *, placeable: bool, matched: Matched) -> None:
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{path} is not a manifest file name; give a .csv or .parquet file")
    if not kept:
        raise InputError(f"{path}: no image is kept, so there is nothing to list; check the marks")
    if not placeable:
        _need_files(kept, None)
    labels = [picture.label for picture in kept]
    if any(labels):
        encode_labels(labels, str(path))
    for picture in kept:
        for text in (picture.id, str(picture.file or "")):
            if path.suffix.lower() == ".parquet" and not _is_utf8(text):
                raise InputError(
                    f"{path}: {text!r} is not UTF-8, which Parquet cannot hold; use {path.with_suffix('.csv')}"
                )
        if path.suffix.lower() == ".csv" and picture.file is not None and str(picture.file)[-1].isspace():
            raise InputError(
                f"{path}: {str(picture.file)!r} ends in a blank, which readers of CSV manifests trim; use "
                f"{path.with_suffix('.parquet')}"
            )
    if matched.source is None and not all(picture.file for picture in kept):
        _need_files(kept, None)


def _need_files(pictures: Sequence[Picture], source: Source | None) -> None:
    """Check that images are files, or that a collection can provide them.

    Raises:
        InputError: An image is not a file. The message names the first one.
    """
    lost = None if source is not None else next((one for one in pictures if one.file is None), None)
    if lost is not None and lost.position is None:
        raise InputError(
            f"{lost.where or lost.id}: {lost.id!r} has no path; name the images too: sdclr apply MARKS IMAGES"
        )
    if lost is not None:
        raise InputError(
            f"{lost.id!r} and others are not individual files, so a manifest cannot list them; add --links FOLDER, "
            "which writes them as files"
        )


def _alike(labels: Iterable[str]) -> list[str]:
    """Notes on labels that differ only in case."""
    found: dict[str, set[str]] = {}
    for label in labels:
        found.setdefault(label.casefold(), set()).add(label)
    several = [sorted(group) for group in found.values() if len(group) > 1]
    return [f"Labels that differ only in case, and may be the same: {', '.join(group)}." for group in several]


def _check_drops(path: Path, dropped: Sequence[Picture]) -> None:
    broken = next((one for one in dropped if _LINE_BREAKS & set(_line(one))), None)
    if broken is not None and path.suffix.lower() != ".csv":
        raise InputError(
            f"{path}: {_line(broken)!r} has a line break in its name, which a list with a line for each image cannot "
            f"hold; use --drop-list {path.with_suffix('.csv')}"
        )


def _write_drops(path: Path, dropped: Sequence[Picture]) -> None:
    if path.suffix.lower() == ".csv":
        write_csv(path, ("path", "id"), ((one.file or "", one.id) for one in dropped))
    else:
        write_atomically(path, "".join(f"{_line(one)}\n" for one in dropped).encode("utf-8", "surrogateescape"))


def _line(picture: Picture) -> str:
    return picture.id if picture.file is None else str(picture.file)


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(os.path.expanduser(path))  # noqa: PTH111
