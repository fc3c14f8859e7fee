"""Results of `sdclr mine` in runs: the rarest and the most forgotten images, side by side."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from PIL import Image

from sdclr.data.source import label_name
from sdclr.data.sources import Source, SubsetSource
from sdclr.files import open_table, parsing
from sdclr.reporting.elements import Elements, Sheet
from sdclr.reporting.sheets import contact_sheet, example_sheet
from sdclr.training.run import Run

SHOWN: Final = 24
"""Images per run."""

Question = Literal["rarest", "forgotten"]

_FORGETTING: Final = "forgetting_"
_AGAIN: Final = "run `sdclr mine` again, which writes it"


@dataclass(frozen=True)
class Ranking:
    """Images of a run ranked by one score."""

    ids: list[str]
    """The first images, rarest or most forgotten first."""
    scores: list[float]
    """The score of each."""
    score: str
    """Name of the score, such as "distance" or "forgetting_0.5"."""
    images: int
    """Number of ranked images."""


@dataclass(frozen=True)
class Card:
    """One image on the page."""

    id: str
    score: str
    label: str
    """Its class, "" if unknown."""
    picture: Sheet | None
    """None if the image is not available or cannot be decoded."""


@dataclass(frozen=True)
class Answer:
    """The images of one run."""

    caption: str
    cards: list[Card]


@dataclass(frozen=True)
class MinedSheets:
    """One ranking and its images for each run."""

    name: Question
    answers: dict[str, Answer]
    """By run."""
    note: str
    """Text on the number of images that all runs share; "" for one run."""


def mined_sheets(runs: Mapping[str, Sequence[Run]], source: Source | None, elements: Elements) -> list[MinedSheets]:
    """The rarest and the most forgotten images of every method that was mined.

    Args:
        runs: The runs of each method; the first run with `mine/scores.parquet` is shown.
        source: The images, searched by id; without it, ids are listed without pictures.
        elements: Creates the pictures.

    Returns:
        Up to two rankings; none if no run was mined.

    Raises:
        InputError: Mined scores cannot be read.
    """
    sheets = []
    questions: tuple[Question, ...] = ("rarest", "forgotten")
    for name in questions:
        rankings = {label: ranking for label, several in runs.items() if (ranking := _first_ranking(several, name))}
        if rankings:
            wanted = {image_id for ranking in rankings.values() for image_id in ranking.ids}
            places = _places(wanted, source)
            answers = {
                label: _answer(ranking, source, places, elements, f"{name}-{label}")
                for label, ranking in rankings.items()
            }
            sheets.append(MinedSheets(name, answers, _agreement(rankings)))
    return sheets


def read_ranking(run: Run, question: Question, *, count: int = SHOWN) -> Ranking | None:
    """The rarest or the most forgotten images of a run.

    Forgetting is 1 - cosine between the features of the dense and of the pruned encoder (Jiang et al., ICML 2021), at
    the run's pruning ratio if it was mined at several ratios.

    Args:
        run: The run; `mine/scores.parquet` may be missing.
        question: The ranking.
        count: Number of images.

    Returns:
        The ranking; None if the run was not mined, or forgetting was not measured.

    Raises:
        DamagedFileError: The file is not a valid output of `sdclr mine`.
    """
    file = run.path / "mine" / "scores.parquet"
    if not file.is_file():
        return None
    with parsing(file, _AGAIN), open_table(file, _AGAIN) as opened:
        described: dict[str, Any] = json.loads((opened.schema_arrow.metadata or {})[b"sdclr"])
        column = "score" if question == "rarest" else _forgetting(opened.schema_arrow.names, run)
        if column is None:
            return None
        table = opened.read(columns=["id", "rank", column])
        rank, scores = (table[name].to_numpy().astype(np.float64) for name in ("rank", column))
        ids = table["id"].to_pylist()
        for position, exact in described["exact_ids"].items():
            ids[int(position)] = exact
        score = described["score"] if question == "rarest" else column
    # Ties are broken by rarity. Bad images (nan) are left out.
    order = np.lexsort((rank,) if question == "rarest" else (rank, -scores))
    order = order[(rank > 0)[order] & np.isfinite(scores)[order]]
    first = order[:count].tolist()
    return Ranking([ids[index] for index in first], scores[first].tolist(), score, len(order))


def _first_ranking(runs: Sequence[Run], question: Question) -> Ranking | None:
    return next(filter(None, (read_ranking(run, question) for run in runs)), None)


def _forgetting(columns: Sequence[str], run: Run) -> str | None:
    """Column of forgetting at the encoder's output: at the run's ratio if there is one, otherwise the first."""
    ratios = {name: _number(name.removeprefix(_FORGETTING)) for name in columns if name.startswith(_FORGETTING)}
    known = [name for name, ratio in ratios.items() if ratio is not None]
    return next((name for name in known if ratios[name] == run.pruned_fraction), known[0] if known else None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _places(wanted: Collection[str], source: Source | None) -> dict[str, int]:
    return {} if source is None else {name: index for index, name in enumerate(source.ids) if name in wanted}


def _answer(
    ranking: Ranking, source: Source | None, places: Mapping[str, int], elements: Elements, name: str
) -> Answer:
    cards, pictures = [], []
    for image_id, score in zip(ranking.ids, ranking.scores, strict=True):
        picture, label = None, ""
        if source is not None and image_id in places:
            picture, label = _picture(source, places[image_id]), label_name(source, places[image_id])
        if picture is not None:
            pictures.append(np.asarray(picture)[..., :3])
        shown = None if picture is None else elements.sheet(picture.convert("RGB"), image_id)
        cards.append(Card(image_id, _shown(score), label, shown))
    if pictures:
        elements.save(contact_sheet(np.stack(pictures), columns=8), name)
    return Answer(f"{ranking.score.replace('_', ' ')}, the first {len(cards)} of {ranking.images:,} images", cards)


def _shown(score: float) -> str:
    """At least three digits, since neighbors in a ranking often differ only in the last digit."""
    return f"{score:,.0f}" if abs(score) >= 100 else f"{score:#.3g}"


def _picture(source: Source, index: int) -> Image.Image | None:
    return example_sheet(SubsetSource(source, [index]), count=1, columns=1)


def _agreement(rankings: Mapping[str, Ranking]) -> str:
    if len(rankings) < 2:
        return ""
    shared = set.intersection(*(set(ranking.ids) for ranking in rankings.values()))
    return f"{len(shared)} of the images shown are in {'both' if len(rankings) == 2 else 'all'} rankings."
