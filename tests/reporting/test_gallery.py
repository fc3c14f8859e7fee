"""The page of rare images, without a browser: files, escaping, thumbnails, errors."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdclr.data.sources import ArraySource, FolderSource
from sdclr.errors import InputError
from sdclr.reporting.gallery import GalleryEntries, _json, _titled, write_gallery


def collection(count: int, *, bad: tuple[int, ...] = (), side: int = 8) -> tuple[GalleryEntries, ArraySource]:
    """Images of one grey each, and scores that rank them in a shuffled order."""
    images = np.repeat(np.arange(count) % 256, side * side * 3).astype(np.uint8).reshape(count, side, side, 3)
    rng = np.random.default_rng(0)
    rarity = rng.permutation(count).astype(np.float32)
    rarity[list(bad)] = np.nan
    good = np.flatnonzero(~np.isnan(rarity))
    rank = np.zeros(count, dtype=np.int64)
    rank[good[np.argsort(-rarity[good])]] = np.arange(1, len(good) + 1)
    source = ArraySource(images, labels=np.arange(count) % 3, name="greys", classes=("a", "b", "c"))
    clusters = np.arange(count) % 4
    clusters[list(bad)] = -1
    entries = GalleryEntries(
        ids=list(source.ids),
        columns={"distance_10": rarity, "loss": np.where(np.isnan(rarity), np.nan, -rarity).astype(np.float32)},
        rarity=rarity,
        rank=rank,
        percentile=np.where(rank > 0, 100 * (len(good) - rank) / max(1, len(good) - 1), np.nan).astype(np.float32),
        clusters=clusters,
        bad={source.ids[position]: "truncated" for position in bad},
        labels=source.labels,
        classes=source.classes,
        score="distance",
    )
    return entries, source


def meta(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="meta">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found.group(1))


def chunks(page: Path) -> list[dict]:
    files = sorted(page.with_name(f"{page.stem}_files").glob("data-*.js"))
    return [json.loads(file.read_text().removeprefix("sdclrRows(").removesuffix(");\n")) for file in files]


def numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_rows_lie_in_order_of_rank_and_bad_images_are_listed_apart(tmp_path: Path) -> None:
    entries, source = collection(50, bad=(3, 17))
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare")
    (chunk,) = chunks(page)
    expected = sorted(set(range(50)) - {3, 17}, key=lambda position: -entries.rarity[position])
    assert chunk["ids"] == [source.ids[position] for position in expected]
    assert numbers(chunk["rank"], "<i4").tolist() == list(range(1, 49))
    assert np.array_equal(numbers(chunk["scores"][0], "<f4"), entries.rarity[expected])
    assert np.array_equal(numbers(chunk["scores"][1], "<f4"), entries.columns["loss"][expected])
    assert np.array_equal(numbers(chunk["cluster"], "<i4"), entries.clusters[expected])
    assert np.array_equal(numbers(chunk["label"], "<i4"), source.labels[expected])
    said = meta(page)
    assert (said["rows"], said["images"]) == (48, 50)
    assert said["bad"] == [[source.ids[3], "not scored: truncated"], [source.ids[17], "not scored: truncated"]]
    # The column that is the rarity stands once, under its own name.
    assert [score["name"] for score in said["scores"]] == ["distance_10", "loss"]
    assert said["scores"][0]["title"] == "Distance to 10 neighbours"


def test_sheets_hold_each_picture_in_its_place(tmp_path: Path) -> None:
    entries, source = collection(80)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare")
    said = meta(page)
    (chunk,) = chunks(page)
    per_sheet = said["across"] ** 2
    assert len(said["sheets"]) == -(-80 // per_sheet)
    for row, image_id in enumerate(chunk["ids"]):
        sheet, place = divmod(row, per_sheet)
        cell = said["cells"][sheet]
        pixels = np.asarray(Image.open(tmp_path / said["sheets"][sheet]))
        x, y = cell * (place % said["across"]), cell * (place // said["across"])
        grey = source.image(list(source.ids).index(image_id))[0, 0, 0]
        assert abs(int(pixels[y + 4, x + 4, 0]) - int(grey)) <= 2, row
    assert (numbers(chunk["sizes"], "<u2") == 8).all()


def test_only_the_rarest_get_a_picture(tmp_path: Path) -> None:
    entries, source = collection(80)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare", thumbnails=40)
    (chunk,) = chunks(page)
    sizes = numbers(chunk["sizes"], "<u2").reshape(-1, 2)
    assert (sizes[:40] == 8).all()
    assert not sizes[40:].any()
    assert len(meta(page)["sheets"]) == 2


def test_many_rows_come_in_several_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdclr.reporting.gallery._CHUNK", 7)
    entries, source = collection(20)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare", thumbnails=10)
    found = chunks(page)
    assert [chunk["first"] for chunk in found] == [0, 7, 14]
    assert [name for chunk in found for name in chunk["ids"]] == [source.ids[p] for p in np.argsort(entries.rank)]
    sizes = np.concatenate([numbers(chunk["sizes"], "<u2") for chunk in found]).reshape(-1, 2)
    assert sizes.any(axis=1).sum() == 10
    names = re.findall(r'src="(rare_files/data-[^"]+)"', page.read_text("utf-8"))
    assert [(tmp_path / name).is_file() for name in names] == [True, True, True]


def test_images_that_break_meanwhile_are_listed_and_keep_their_row(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / f"{name}.png")
    source = FolderSource(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no image")
    entries = replace(collection(3)[0], ids=list(source.ids), labels=None)
    page = write_gallery(tmp_path / "out" / "rare.html", entries, source, title="Rare", workers=1)
    assert meta(page)["bad"] == [["b.png", "no picture: not an image of a known format"]]
    (chunk,) = chunks(page)
    sizes = dict(zip(chunk["ids"], numbers(chunk["sizes"], "<u2").reshape(-1, 2).tolist(), strict=True))
    assert sizes == {"a.png": [20, 10], "b.png": [0, 0], "c.png": [20, 10]}


def test_a_page_replaces_its_predecessor_and_touches_nothing_else(tmp_path: Path) -> None:
    entries, source = collection(50)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare")
    files = tmp_path / "rare_files"
    before = {file.name for file in files.iterdir()}
    (files / "mine.txt").write_text("kept")
    write_gallery(page, replace(entries, rarity=entries.rarity * 2), source, title="Rare")
    after = {file.name for file in files.iterdir()}
    assert "mine.txt" in after
    assert not before & after
    assert len(after) == len(before) + 1
    same = page.read_bytes()
    write_gallery(page, replace(entries, rarity=entries.rarity * 2), source, title="Rare")
    assert page.read_bytes() == same  # nothing in it depends on when it was written


@given(st.text(st.characters(), max_size=50))
def test_json_in_a_script_survives_and_cannot_end_it(text: str) -> None:
    written = _json([text, "</script>\u2028<!--&"])
    assert json.loads(written) == [text, "</script>\u2028<!--&"]
    assert not re.search("[<>&\u2028\u2029\n\r]", written)
    assert written.isascii()


def test_names_stay_text(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)><script>alert(1)</script>\udcff'
    entries, _ = collection(3)
    named = replace(entries, ids=[evil, "b", "c"], classes=(evil, "b", "c"), columns={evil: entries.rarity * 2})
    renamed = ArraySource(np.zeros((3, 8, 8, 3), np.uint8), ids=[evil, "b", "c"], name="s")
    page = write_gallery(tmp_path / "rare #1?.html", named, renamed, title=evil, summary=evil)
    text = page.read_text("utf-8")
    assert "<img" not in text
    assert text.count("<script") == 3  # the data block, ours, one script of rows
    assert "alert(1)<" not in text
    assert evil in chunks(page)[0]["ids"]
    assert 'src="rare%20%231%3F_files/data-' in text


def test_reasons_are_asked_by_position(tmp_path: Path) -> None:
    entries, source = collection(5)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare", why=lambda position: f"no. {position}")
    (chunk,) = chunks(page)
    assert chunk["why"] == [f"no. {position}" for position in np.argsort(entries.rank)]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("distance_50", "Distance to 50 neighbours"),
        ("forgetting_0.5", "Forgetting at 0.5"),
        ("forgetting_projection_0.9", "Forgetting at 0.9, projected"),
        ("cluster_size", "Cluster size"),
        ("my_own", "my own"),
    ],
)
def test_titles_of_scores(name: str, title: str) -> None:
    assert _titled(name)[0] == title


def test_an_empty_collection_makes_a_page(tmp_path: Path) -> None:
    entries, source = collection(2, bad=(0, 1))
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare")
    assert meta(page)["rows"] == 0
    assert len(meta(page)["bad"]) == 2


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    entries, source = collection(5)

    def refused(found: GalleryEntries = entries, images: ArraySource = source, **options: int) -> str:
        with pytest.raises(InputError) as caught:
            write_gallery(tmp_path / "rare.html", found, images, title="Rare", **options)
        return str(caught.value)

    assert "loss has shape (4,)" in refused(replace(entries, columns={"loss": np.zeros(4, np.float32)}))
    assert "6 images, but 5" in refused(images=collection(6)[1])
    assert "'other'" in refused(replace(entries, ids=["other", *entries.ids[1:]]))
    assert "size=8" in refused(size=8)
    assert "thumbnails=-1" in refused(thumbnails=-1)
    with pytest.raises(InputError, match="is a folder"):
        write_gallery(tmp_path, entries, source, title="Rare")
    assert not list(tmp_path.iterdir())
