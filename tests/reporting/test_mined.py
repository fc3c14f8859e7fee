"""What was mined, on the page: which images, in which order, with which picture; and what it bears that is absent."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdclr.config import to_json
from sdclr.data.sources import ArraySource
from sdclr.encoders import EncoderConfig
from sdclr.errors import BadImageError, InputError
from sdclr.mining.ranking import rank_images
from sdclr.reporting.elements import Elements, Sheet
from sdclr.reporting.mined import mined_sheets, read_ranking
from sdclr.training.config import DamageConfig, PretrainConfig
from sdclr.training.optim import OptimConfig
from sdclr.training.run import Run

IDS = ["a", "b", "c", "d", "e"]
DISTANCE = [0.1, 0.5, 0.3, 0.3, np.nan]
"""d comes before c: their distance is equal, and the tie is decided for it."""
FORGETTING = {"forgetting_0.9": [0.0, 0.1, 0.2, 0.3, np.nan], "forgetting_0.5": [0.4, 0.0, 0.1, 0.2, np.nan]}


def fake_run(folder: Path, *, ratio: float = 0.5) -> Run:
    folder.mkdir(parents=True)
    config = PretrainConfig(
        encoder=EncoderConfig(width=4), damage=DamageConfig(ratio=ratio), optim=OptimConfig(warmup_epochs=1), epochs=2
    )
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    return Run(folder)


def mined_run(
    folder: Path,
    *,
    ratio: float = 0.5,
    ids: list[str] = IDS,
    forgetting: dict[str, list[float]] = FORGETTING,
    distance: list[float] = DISTANCE,
) -> Run:
    run = fake_run(folder, ratio=ratio)
    (run.path / "mine").mkdir()
    rank_images(
        ids,
        {"forgetting_projection_0.5": [9.0] * 5, **forgetting},
        distance,
        [0, 0, 1, 1, 0],
        score="distance",
        bad={ids[4]: "truncated"},
        ties=[0, 0, 0, 1, 0],
    ).write(run.path / "mine" / "scores.parquet")
    return run


class Broken(ArraySource):
    """One image cannot be decoded."""

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        if self.ids[index] == "d":
            raise BadImageError("d", "truncated")
        return super().image(index, min_side=min_side)


def collection() -> Broken:
    """Each picture has a gray of its own; "b" is not among them. In another order than the scores."""
    ids = ["e", "d", "c", "a"]
    images = np.broadcast_to(np.array([50, 40, 30, 10], dtype=np.uint8)[:, None, None, None], (4, 8, 8, 3)).copy()
    return Broken(images, [1, 0, -1, 7], ids=ids, classes=["cat", "dog"])


def gray(sheet: Sheet | None) -> int | None:
    if sheet is None:
        return None
    data = base64.b64decode(sheet.uri.removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0, 0])


def test_the_rarest_come_by_rank_and_bad_images_not_at_all(tmp_path: Path) -> None:
    ranking = read_ranking(mined_run(tmp_path / "run"), "rarest")
    assert ranking is not None
    assert ranking.ids == ["b", "d", "c", "a"]
    np.testing.assert_allclose(ranking.scores, [0.5, 0.3, 0.3, 0.1], rtol=1e-6)
    assert (ranking.score, ranking.images) == ("distance", 4)


def test_the_first_are_the_first_of_all(tmp_path: Path) -> None:
    ranking = read_ranking(mined_run(tmp_path / "run"), "rarest", count=2)
    assert ranking is not None
    assert ranking.ids == ["b", "d"]
    assert ranking.images == 4


@pytest.mark.parametrize(
    ("ratio", "score", "ids"),
    [(0.5, "forgetting_0.5", "adcb"), (0.9, "forgetting_0.9", "dcba"), (0.7, "forgetting_0.9", "dcba")],
)
def test_the_most_forgotten_are_those_at_the_ratio_of_the_run(
    ratio: float, score: str, ids: str, tmp_path: Path
) -> None:
    ranking = read_ranking(mined_run(tmp_path / "run", ratio=ratio), "forgotten")
    assert ranking is not None
    assert (ranking.score, "".join(ranking.ids)) == (score, ids)


def test_what_was_not_measured_is_absent(tmp_path: Path) -> None:
    assert read_ranking(fake_run(tmp_path / "never"), "rarest") is None
    unpruned = mined_run(tmp_path / "unpruned", forgetting={})
    assert read_ranking(unpruned, "forgotten") is None
    (found,) = mined_sheets({"a": [unpruned]}, None, Elements())
    assert found.name == "rarest"
    assert mined_sheets({"a": [Run(tmp_path / "never")]}, None, Elements()) == []


def test_pictures_and_classes_are_found_by_id(tmp_path: Path) -> None:
    rarest, forgotten = mined_sheets({"run": [mined_run(tmp_path / "run")]}, collection(), Elements())
    cards = rarest.answers["run"].cards
    # b is not in the collection, d cannot be decoded, c has no label, the class of a no name.
    assert [(card.id, card.label, gray(card.picture)) for card in cards] == [
        ("b", "", None),
        ("d", "cat", None),
        ("c", "", 30),
        ("a", "7", 10),
    ]
    assert [card.score for card in cards] == ["0.500", "0.300", "0.300", "0.100"]
    assert rarest.answers["run"].caption == "distance, the first 4 of 4 images"
    assert [card.id for card in forgotten.answers["run"].cards] == ["a", "d", "c", "b"]
    assert rarest.note == ""


def test_without_images_they_are_listed(tmp_path: Path) -> None:
    rarest, _ = mined_sheets({"run": [mined_run(tmp_path / "run")]}, None, Elements())
    assert [(card.id, card.picture) for card in rarest.answers["run"].cards] == [(i, None) for i in "bdca"]


def test_runs_stand_side_by_side_and_of_a_method_the_first_that_was_mined(tmp_path: Path) -> None:
    other = mined_run(tmp_path / "b", ids=["a", "b", "x", "y", "z"], forgetting={})
    runs = {"first": [fake_run(tmp_path / "never"), mined_run(tmp_path / "a")], "second": [other]}
    rarest, forgotten = mined_sheets(runs, None, Elements())
    assert list(rarest.answers) == ["first", "second"]
    assert rarest.note == "2 of the images shown are in both rankings."
    assert list(forgotten.answers) == ["first"]
    assert forgotten.note == ""


def test_large_scores_are_whole_numbers(tmp_path: Path) -> None:
    run = mined_run(tmp_path / "run", distance=[1234.5, 99.0, 2e6, -150.0, np.nan])
    rarest, _ = mined_sheets({"run": [run]}, None, Elements())
    assert [card.score for card in rarest.answers["run"].cards] == ["2,000,000", "1,234", "99.0", "-150"]


def test_names_that_are_not_utf8_find_their_pictures(tmp_path: Path) -> None:
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    run = mined_run(tmp_path / "run", ids=["a", name, "c", "d", "e"])
    source = ArraySource(np.full((1, 8, 8, 3), 9, dtype=np.uint8), ids=[name])
    rarest, _ = mined_sheets({"run": [run]}, source, Elements())
    first = rarest.answers["run"].cards[0]
    assert (first.id, gray(first.picture)) == (name, 9)


def test_sheets_are_saved_as_pictures(tmp_path: Path) -> None:
    mined_sheets({"my run": [mined_run(tmp_path / "run")]}, collection(), Elements(tmp_path / "out"))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["forgotten-my-run.png", "rarest-my-run.png"]
    with Image.open(tmp_path / "out" / "rarest-my-run.png") as image:
        assert image.size == (2 * 64 + 4, 64)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    file = run.path / "mine" / "scores.parquet"
    file.parent.mkdir()
    described = {b"sdclr": b'{"exact_ids": {}, "score": "distance"}'}
    for table in (
        None,
        pa.table({"id": ["a"]}),
        pa.table({"id": ["a"]}).replace_schema_metadata(described),
        pa.table({"id": ["a"], "rank": ["?"], "score": [1.0]}).replace_schema_metadata(described),
    ):
        if table is None:
            file.write_bytes(b"no parquet")
        else:
            pq.write_table(table, file)
        with pytest.raises(InputError, match=r"mine/scores.parquet cannot be read .*run `sdclr mine`"):
            read_ranking(run, "rarest")
