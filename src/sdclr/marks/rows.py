"""A mark of one image, and the marks of one or several files."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from sdclr.errors import InputError

Decision: TypeAlias = Literal["keep", "drop", ""]
"""Decision on an image; "" for none."""

_LONGEST: Final = 200
"""Maximum characters of a value in an error message."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One person's mark of one image.

    Example:
        >>> mark = sdclr.Mark(id="star/00.jpg", label=" comet ")
        >>> mark.name, mark.label
        ('star/00.jpg', 'comet')
    """

    id: str = ""
    """The image's id in its collection; "" if only its file is known."""
    path: str = ""
    """Absolute path of its file; "" if it is not an individual file."""
    mark: Decision = ""
    """Whether to keep or to drop it."""
    label: str = ""
    """Its label, "" for none. Surrounding spaces are removed."""
    where: str = field(default="", compare=False)
    """File and row, for error messages."""

    def __post_init__(self) -> None:
        if not self.id and not self.path:
            raise InputError(f"{self.where or 'a mark'}: names no image; fill in its `id` or `path`")
        if self.mark not in ("keep", "drop", ""):
            raise InputError(f"{self.where or self.id}: the mark is {self.mark!r}; give keep, drop, or leave it empty")
        for name in ("id", "path", "label"):
            text = getattr(self, name)
            try:
                # File names that are not UTF-8 contain lone surrogates; a label is always text.
                text.encode("utf-8", "strict" if name == "label" else "surrogateescape")
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{self.where or repr(self.name)}: the {name} {text[:_LONGEST]!r} is not UTF-8; save it as UTF-8"
                ) from error
        object.__setattr__(self, "label", self.label.strip())

    @property
    def name(self) -> str:
        """Name of the image: its id, otherwise its path."""
        return self.id or self.path


@dataclass(frozen=True)
class Marks:
    """Marks, one per image, in the order in which the images first appear.

    Example:
        >>> rows = sdclr.Mark(id="star/00.jpg", label="comet"), sdclr.Mark(id="square/23.jpg", mark="drop")
        >>> marks = sdclr.Marks(rows)
        >>> len(marks), marks.count("drop"), marks.labels()
        (2, 1, Counter({'comet': 1}))
    """

    rows: tuple[Mark, ...]
    files: tuple[Path, ...] = ()
    """The files that were read."""

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> Counter[str]:
        """Number of images per label, most frequent first."""
        found = Counter(row.label for row in self.rows if row.label)
        return Counter(dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))))

    def count(self, mark: Decision) -> int:
        """Number of images with this mark."""
        return sum(row.mark == mark for row in self.rows)


def merged(rows: Iterable[Mark]) -> tuple[Mark, ...]:
    """Merge rows into one mark per image. Rows of the same image complete each other.

    Raises:
        InputError: Two rows contradict each other. The message names both.
    """
    found: dict[str, Mark] = {}
    id_of: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: not row.id):  # rows with only a path come after those with an id
        name = row.id or id_of.get(row.path, row.path)
        found[name] = row if name not in found else joined(found[name], row)
        id_of.setdefault(row.path, name)
    return tuple(found.values())


def joined(first: Mark, second: Mark) -> Mark:
    """Merge two marks of one image.

    Raises:
        InputError: The marks contradict each other.
    """
    for name in ("path", "mark", "label"):
        one, other = getattr(first, name), getattr(second, name)
        if one and other and one != other:
            raise InputError(
                f"{first.where} and {second.where} contradict each other: {first.name!r} has the {name} {one!r} and "
                f"{other!r}; correct one of the rows, or remove it"
            )
    return Mark(
        id=first.id or second.id,
        path=first.path or second.path,
        mark=first.mark or second.mark,
        label=first.label or second.label,
        where=first.where,
    )
