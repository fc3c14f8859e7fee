"""Input and output of `sdclr select`: images with labels, images to label next, and the use of the budget."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sdclr.errors import InputError
from sdclr.files import read_regular, unguarded, write_csv
from sdclr.mining.select import Choice

_ID: Final = "id"
_LABEL: Final = "label"
_LISTED_KINDS: Final = 8


def labeled_ids(files: Sequence[Path]) -> list[str]:
    """Ids of labeled images, from text files with one id per line or CSV files with a column `id`.

    If a CSV file also has a column `label`, only rows with a label count.

    Raises:
        InputError: If a file cannot be read.
    """
    return list(dict.fromkeys(image_id for file in files for image_id in _ids(file)))


def _ids(file: Path) -> list[str]:
    text = read_regular(file).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = rows.fieldnames or ()
        if len(header) == 1 or _ID not in header:
            return [line for line in re.split(r"\r\n|\n|\r", text) if line]
        return [unguarded(row[_ID]) for row in rows if row[_ID] and (_LABEL not in header or row[_LABEL])]
    except csv.Error as error:
        raise InputError(f"{file} is not a CSV table ({error}): save it with commas between its columns") from error


def write_choice(choice: Choice, file: Path) -> None:
    """Write a CSV file of the chosen images: order, id, score, percentile, kind."""
    scores = choice.scores
    rows = (
        (order, scores.ids[at], f"{scores.rarity[at]:.6g}", f"{scores.percentile[at]:.4g}", scores.kinds[at])
        for order, at in enumerate(choice.positions.tolist(), start=1)
    )
    write_csv(file, ("order", _ID, "score", "percentile", "kind"), rows)


def spent(choice: Choice, method: str, labeled: Sequence[str]) -> Iterator[str]:
    """Lines on the use of the budget.

    Args:
        choice: The chosen images.
        method: The method of the choice.
        labeled: Ids of labeled images.
    """
    scores = choice.scores
    free = len(scores) - len(scores.bad.keys() | set(labeled))
    yield f"{len(choice.ids):,} of {free:,} unlabeled images chosen by {method}."
    if len(scores.groups) < 2:
        yield "No separate kinds: the images form one connected group."
        return
    taken = np.bincount(scores.kinds[choice.positions], minlength=len(scores.groups)).tolist()
    parts = [f"{count:,} of {group.size:,}" for count, group in zip(taken, scores.groups, strict=True)]
    rest = parts[_LISTED_KINDS:]
    more = f", and {sum(taken[_LISTED_KINDS:]):,} of {len(rest)} smaller kinds" if rest else ""
    yield (
        f"The chosen images include {sum(count > 0 for count in taken)} of {len(parts)} separate kinds: "
        f"{', '.join(parts[:_LISTED_KINDS])} images{more}."
    )
