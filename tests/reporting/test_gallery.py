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
from sdclr.reporting.gallery import GalleryEntries, KindGroup, write_gallery
from sdclr.reporting.gallery_data import as_json, titled
from sdclr.reporting.gallery_entries import EXAMPLES, in_short, kind_examples, ranked_positions


def grouped(kinds: np.ndarray) -> list[KindGroup]:
    """The groups of kinds 0, 1, …; their first image is the medoid, and the small ones are rare."""
    sizes = np.bincount(kinds[kinds >= 0])
    first = {int(kind): int(np.argmax(kinds == kind)) for kind in range(len(sizes))}
    return [
        KindGroup(kind=kind, size=int(size), separation=1 - kind / (4 * len(sizes)), medoid=first[kind], rare=kind > 0)
        for kind, size in enumerate(sizes)
    ]


def collection(
    count: int, *, bad: tuple[int, ...] = (), side: int = 8, kinds: int = 1, odd: tuple[int, ...] = ()
) -> tuple[GalleryEntries, ArraySource]:
    """Images of one gray each, and scores that rank them in a shuffled order. Kind 0 is the largest."""
    images = np.repeat(np.arange(count) % 256, side * side * 3).astype(np.uint8).reshape(count, side, side, 3)
    rng = np.random.default_rng(0)
    rarity = rng.permutation(count).astype(np.float32)
    rarity[list(bad)] = np.nan
    good = np.flatnonzero(~np.isnan(rarity))
    rank = np.zeros(count, dtype=np.int64)
    rank[good[np.argsort(-rarity[good])]] = np.arange(1, len(good) + 1)
    source = ArraySource(images, labels=np.arange(count) % 3, name="grays", classes=("a", "b", "c"))
    kind = np.full(count, -1)
    kind[good] = np.maximum(0, np.arange(len(good)) % (2 * kinds) - kinds)  # 0 for more than half of the images
    entries = GalleryEntries(
        ids=list(source.ids),
        columns={"distance_10": rarity, "loss": np.where(np.isnan(rarity), np.nan, -rarity).astype(np.float32)},
        rarity=rarity,
        rank=rank,
        percentile=np.where(rank > 0, 100 * (len(good) - rank) / max(1, len(good) - 1), np.nan).astype(np.float32),
        kinds=kind,
        groups=grouped(kind),
        odd=np.array(odd, dtype=np.int64),
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
    entries, source = collection(50, bad=(3, 17), kinds=3)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare")
    (chunk,) = chunks(page)
    expected = sorted(set(range(50)) - {3, 17}, key=lambda position: -entries.rarity[position])
    assert chunk["ids"] == [source.ids[position] for position in expected]
    assert numbers(chunk["rank"], "<i4").tolist() == list(range(1, 49))
    assert np.array_equal(numbers(chunk["scores"][0], "<f4"), entries.rarity[expected])
    assert np.array_equal(numbers(chunk["scores"][1], "<f4"), entries.columns["loss"][expected])
    assert np.array_equal(numbers(chunk["kind"], "<i4"), entries.kinds[expected])
    assert np.array_equal(numbers(chunk["label"], "<i4"), source.labels[expected])
    said = meta(page)
    assert (said["rows"], said["images"]) == (48, 50)
    assert said["bad"] == [[source.ids[3], "not scored: truncated"], [source.ids[17], "not scored: truncated"]]
    # The column that is the rarity stands once, under its own name.
    assert [score["name"] for score in said["scores"]] == ["distance_10", "loss"]
    assert said["scores"][0]["title"] == "Distance to 10 neighbors"


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
        gray = source.image(list(source.ids).index(image_id))[0, 0, 0]
        assert abs(int(pixels[y + 4, x + 4, 0]) - int(gray)) <= 2, row
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
    monkeypatch.setattr("sdclr.reporting.gallery.CHUNK", 7)
    monkeypatch.setattr("sdclr.reporting.gallery_data.CHUNK", 7)
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
    written = as_json([text, "</script>\u2028<!--&"])
    assert json.loads(written) == [text, "</script>\u2028<!--&"]
    assert not re.search("[<>&\u2028\u2029\n\r]", written)
    assert written.isascii()


def test_names_stay_text(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)><script>alert(1)</script>\udcff'
    entries, _ = collection(3)
    named = replace(entries, ids=[evil, "b", "c"], classes=(evil, "b", "c"), columns={evil: entries.rarity * 2})
    renamed = ArraySource(np.zeros((3, 8, 8, 3), np.uint8), ids=[evil, "b", "c"], name="s")
    page = write_gallery(tmp_path / "rare #1?.html", named, renamed, title=evil)
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
        ("distance_50", "Distance to 50 neighbors"),
        ("forgetting_0.5", "Forgetting at 0.5"),
        ("forgetting_projection_0.9", "Forgetting at 0.9, projection"),
        ("kind_size", "Size of the kind"),
        ("my_own", "my own"),
    ],
)
def test_titles_of_scores(name: str, title: str) -> None:
    assert titled(name)[0] == title


def test_an_empty_collection_makes_a_page(tmp_path: Path) -> None:
    entries, source = collection(2, bad=(0, 1))
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare")
    assert meta(page)["rows"] == 0
    assert len(meta(page)["bad"]) == 2


def drawn(page: Path) -> dict[int, tuple[int, int]]:
    """Size of the thumbnail of each row that has one."""
    sizes = np.concatenate([numbers(chunk["sizes"], "<u2") for chunk in chunks(page)]).reshape(-1, 2)
    return {int(row): tuple(sizes[row]) for row in np.flatnonzero(sizes.any(axis=1))}


def pixel(page: Path, place: int) -> int:
    """The gray of the thumbnail at a place, counted over all sheets."""
    said = meta(page)
    sheet, place = divmod(place, said["across"] ** 2)
    cell = said["cells"][sheet]
    x, y = cell * (place % said["across"]), cell * (place // said["across"])
    return int(np.asarray(Image.open(page.parent / said["sheets"][sheet]))[y + 4, x + 4, 0])


def test_kinds_come_from_the_rarest_each_with_its_medoid_first(tmp_path: Path) -> None:
    entries, source = collection(200, kinds=3, odd=(7, 150))
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare", thumbnails=20)
    said, rows = meta(page), ranked_positions(entries)
    assert [(kind, size, rare) for kind, size, _, rare, _ in said["kinds"]] == [
        (2, 33, True),
        (1, 33, True),
        (0, 134, False),
    ]
    assert [share for _, _, share, _, _ in said["kinds"]] == pytest.approx([1 - 2 / 12, 1 - 1 / 12, 1], abs=1e-4)
    assert [rows[row] for row in said["odd"]] == [7, 150]
    with_picture = drawn(page)
    for kind, _, _, _, examples in said["kinds"]:
        positions = rows[examples]
        assert positions[0] == entries.groups[kind].medoid
        assert len(set(examples)) == len(examples) == EXAMPLES + 1
        assert (entries.kinds[positions] == kind).all()
        members = [row for row in range(200) if entries.kinds[rows[row]] == kind and row != examples[0]]
        assert (examples[1], examples[-1]) == (members[-1], members[0])  # from the most ordinary to the rarest
        assert (np.diff(examples[1:]) < 0).all()
    shown = {row for *_, examples in said["kinds"] for row in examples} | set(said["odd"])
    assert set(with_picture) == set(range(20)) | shown
    for place, row in enumerate(said["further"]):
        assert abs(pixel(page, said["ranked"] + place) - int(source.image(int(rows[row]))[0, 0, 0])) <= 2, row


def test_examples_are_spread_evenly_and_a_small_kind_shows_all() -> None:
    entries, _ = collection(1000, kinds=2)
    rows = ranked_positions(entries)
    small, large = kind_examples(replace(entries, groups=grouped(entries.kinds)), rows)
    members = np.flatnonzero(entries.kinds[rows] == 0)
    steps = np.diff(np.searchsorted(members, large[1:]))
    assert len(small) == EXAMPLES + 1
    assert np.ptp(steps) <= 2  # the medoid is left out
    entries, _ = collection(8, kinds=2)  # six images and two
    small, large = kind_examples(entries, ranked_positions(entries))
    assert (len(small), len(large)) == (2, 6)


def test_one_kind_is_said_in_a_sentence(tmp_path: Path) -> None:
    entries, source = collection(30)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare", thumbnails=5)
    text = page.read_text("utf-8")
    assert "No separate kinds were found, and images are ranked by the distance to their nearest neighbors." in text
    assert meta(page)["kinds"] == []
    assert len(drawn(page)) == 5
    other = {"loss": entries.columns["loss"]}
    write_gallery(page, replace(entries, columns=other, rarity=other["loss"], score="loss"), source, title="Rare")
    assert "and images are ranked by this score: Contrastive loss." in page.read_text("utf-8")


def test_two_images_and_one_that_is_left(tmp_path: Path) -> None:
    entries, source = collection(2)
    assert meta(write_gallery(tmp_path / "a.html", entries, source, title="Rare"))["rows"] == 2
    apart = np.array([0, 1])
    entries = replace(entries, kinds=apart, groups=grouped(apart), odd=np.array([1]))
    page = write_gallery(tmp_path / "b.html", entries, source, title="Rare")
    assert [examples for *_, examples in meta(page)["kinds"]] == [
        [int(entries.rank[1]) - 1],
        [int(entries.rank[0]) - 1],
    ]
    entries, source = collection(4, bad=(0, 1, 3))
    page = write_gallery(tmp_path / "c.html", entries, source, title="Rare")
    assert (meta(page)["rows"], meta(page)["images"]) == (1, 4)
    assert "1 image. 3 images could not be read." in page.read_text("utf-8")


def test_ten_thousand_kinds(tmp_path: Path) -> None:
    entries, source = collection(20_000, kinds=10_000, side=2)
    page = write_gallery(tmp_path / "rare.html", entries, source, title="Rare", thumbnails=100)
    said = meta(page)
    assert len(said["kinds"]) == 10_000
    assert [size for _, size, *_ in said["kinds"]] == [1] * 9_999 + [10_001]
    assert all(examples for *_, examples in said["kinds"])
    with_picture = drawn(page)
    assert all(row in with_picture for *_, examples in said["kinds"] for row in examples)
    assert len(with_picture) < 10_200  # the medoids and a few more
    assert "20,000 images. 10,000 separate kinds, from 1 to 10,001 images." in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("sizes", "odd", "bad", "said"),
    [
        ([4138, 376, 372], 12, 3, "4,886 images. 3 separate kinds: 372, 376 and 4,138 images. 12 odd images. 3 images"),
        ([9, 8], 1, 0, "17 images. 2 separate kinds: 8 and 9 images. 1 odd image."),
        ([9, 5, 4, 3, 2, 1], 0, 1, "24 images. 6 separate kinds, from 1 to 9 images. 1 image could not be read."),
        ([5], 0, 0, "5 images."),
        ([], 0, 2, "No image could be read."),
    ],
)
def test_the_collection_in_one_line(sizes: list[int], odd: int, bad: int, said: str) -> None:
    kinds = np.repeat([*range(len(sizes)), -1], [*sizes, bad])
    entries = replace(
        collection(2)[0],
        rank=np.where(kinds < 0, 0, np.arange(len(kinds)) + 1),
        kinds=kinds,
        groups=grouped(kinds),
        odd=np.arange(odd),
        bad={str(number): "truncated" for number in range(bad)},
    )
    assert in_short(entries).startswith(said)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    entries, source = collection(5)

    def refused(found: GalleryEntries = entries, images: ArraySource = source, **options: int) -> str:
        with pytest.raises(InputError) as caught:
            write_gallery(tmp_path / "rare.html", found, images, title="Rare", **options)
        return str(caught.value)

    assert "loss has shape (4,)" in refused(replace(entries, columns={"loss": np.zeros(4, np.float32)}))
    (group,) = entries.groups
    two = np.array([0, 0, 1, 1, 1])
    assert "'grays/00000' is ranked and has the kind -1" in refused(replace(entries, kinds=np.array([-1, 0, 0, 0, 0])))
    assert "kinds [0, 0]" in refused(replace(entries, groups=[group, group]))
    assert "kinds go up to 1, but there are 1 groups" in refused(replace(entries, kinds=two))
    assert "kind 1 has 3 images, the one before it 2" in refused(replace(entries, kinds=two, groups=grouped(two)))
    assert "group says 4" in refused(replace(entries, groups=[replace(group, size=4)]))
    for wrong in (1.5, -0.1, float("nan")):
        assert f"separation {wrong}" in refused(replace(entries, groups=[replace(group, separation=wrong)]))
    assert "medoid 5" in refused(replace(entries, groups=[replace(group, medoid=5)]))
    assert "odd holds 5 for 5 images" in refused(replace(entries, odd=np.array([1, 5])))
    assert "repeats a position" in refused(replace(entries, odd=np.array([1, 1])))
    bad, images = collection(5, bad=(2,))
    assert "'grays/00002' is in odd but not ranked" in refused(replace(bad, odd=np.array([2])), images)
    assert "6 images, but 5" in refused(images=collection(6)[1])
    assert "'other'" in refused(replace(entries, ids=["other", *entries.ids[1:]]))
    assert "size=8" in refused(size=8)
    assert "thumbnails=-1" in refused(thumbnails=-1)
    with pytest.raises(InputError, match="is a folder"):
        write_gallery(tmp_path, entries, source, title="Rare")
    assert not list(tmp_path.iterdir())
