"""Groups of near-duplicates."""

import csv
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import sdclr
from sdclr.cli import main
from sdclr.data.sources import ArraySource, open_source
from sdclr.errors import BadImageError
from sdclr.features.nearest import Neighbors, nearest
from sdclr.mining import duplicates, looks
from sdclr.mining.duplicates import duplicates_among
from sdclr.mining.mine import MineConfig, mine_features
from sdclr.mining.same_picture import same_picture
from sdclr.mining.scores import Scores


def picture(seed, side=96):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


class Pictures:
    """Images in memory; None cannot be decoded."""

    name, labels, classes = "pictures", None, ()

    def __init__(self, images, ids=None):
        self.images = images
        self.ids = ids or [f"{number}.png" for number in range(len(images))]
        self.asked = []

    def __len__(self):
        return len(self.images)

    def image(self, index, *, min_side=None):  # noqa: ARG002
        self.asked.append(index)
        if self.images[index] is None:
            raise BadImageError(self.ids[index], "truncated")
        return self.images[index]


def near_by(shown, jitter=0.01, k=15, seed=0):
    """Neighbors of images of which those that show the same lie near each other."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(1).normal(size=(max(shown) + 1, 512))
    features = centers[shown] + jitter * random.normal(size=(len(shown), 512))
    return nearest(torch.from_numpy(features).float(), min(k, len(shown) - 1))


def found_among(images, shown, **options):
    return duplicates_among(Pictures(images), near_by(shown, **options), np.arange(len(images)))


def test_copies_are_grouped_and_the_largest_is_kept():
    large = picture(0, 128)
    images = [cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA), picture(1), large, large[:, ::-1], picture(2)]
    found = found_among(images, [0, 1, 0, 0, 2])
    assert found.groups == ((2, 0, 3),)
    assert found.drop == ["0.png", "3.png"]
    assert [pair.how for pair in found.pairs] == ["resized", "mirrored"]
    assert found.duplicate_of().tolist() == [2, -1, -1, 2, -1]


def test_of_equal_size_color_is_kept_then_the_larger_file_then_the_first(tmp_path):
    image = picture(0)
    gray = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "b.jpg", quality=50)
    Image.fromarray(image).save(tmp_path / "c.jpg", quality=95)
    (tmp_path / "d.jpg").write_bytes((tmp_path / "c.jpg").read_bytes())
    source = open_source(tmp_path)
    found = duplicates_among(source, near_by([0] * 4), np.arange(4))
    assert [source.ids[row] for row in found.groups[0]] == ["c.jpg", "a.png", "b.jpg", "d.jpg"]
    assert [pair.how for pair in found.pairs] == ["gray", "recompressed", "same pixels"]


def test_near_embeddings_of_different_pictures_are_no_duplicates():
    found = found_among([picture(seed) for seed in range(8)], [0] * 8)
    assert found.groups == ()
    assert found.candidates > 0
    assert found.looked == 8


def test_pixels_of_distant_images_are_not_read():
    source = Pictures([picture(seed % 20) for seed in range(40)])
    shown = [row % 20 if row in {3, 23} else row for row in range(40)]
    found = duplicates_among(source, near_by(shown), np.arange(40))
    assert found.groups == ((3, 23),)
    assert len(source.asked) < 20


def test_a_chain_is_no_group(monkeypatch):
    """A drifting sequence in which only frames at most two apart show the same."""
    images = [np.full((64, 64, 3), 10 * number, dtype=np.uint8) for number in range(12)]
    for number, image in enumerate(images):
        image[:3] = picture(number, 64)[:3]

    def alike(one, other):
        first, second = (round(float(record["gray"][40, 40]) / 10) for record in (one, other))
        return (0.9, "drifted") if abs(first - second) <= 2 else None

    monkeypatch.setattr(looks, "same_picture", lambda a, b: None if (m := alike(a, b)) is None else looks.Match(*m))
    found = found_among(images, [0] * 12, k=11)
    assert found.groups
    for keep, *others in found.groups:
        assert all(abs(other - keep) <= 2 for other in others)
    assert sum(map(len, found.groups)) == len({row for group in found.groups for row in group})


def test_the_order_of_the_images_decides_only_between_equals():
    images = [picture(seed, 64 + 8 * copy) for seed in range(6) for copy in range(3)] + [picture(9), picture(10)]
    shown = [seed for seed in range(6) for _ in range(3)] + [9, 10]
    ids = [str(number) for number in range(len(images))]
    usual = duplicates_among(Pictures(images, ids), near_by(shown), np.arange(len(images)))
    assert len(usual.groups) == 6
    order = np.random.default_rng(0).permutation(len(images))
    moved = Pictures([images[row] for row in order], [ids[row] for row in order])
    again = duplicates_among(moved, near_by([shown[row] for row in order]), np.arange(len(images)))
    named = [
        {(group[0], frozenset(group)) for group in ((f.ids[g[0]], *(f.ids[m] for m in g)) for g in f.groups)}
        for f in (usual, again)
    ]
    assert named[0] == named[1]


def test_an_unreadable_image_in_the_middle_ends_nothing():
    images = [picture(0), picture(0), None, picture(0), picture(1)]
    found = found_among(images, [0, 0, 0, 0, 1])
    assert found.groups == ((0, 1, 3),)
    assert found.looked == 3


def test_positions_count_images_that_mining_left_out():
    images = [picture(1), None, picture(0), None, picture(0)]
    found = duplicates_among(Pictures(images), near_by([1, 0, 0]), np.array([0, 2, 4]))
    assert found.groups == ((2, 4),)


def test_two_images_and_one():
    assert found_among([picture(0), picture(0)], [0, 0]).groups == ((0, 1),)
    assert found_among([picture(0), picture(1)], [0, 0]).groups == ()
    alone = Neighbors(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    assert duplicates_among(Pictures([picture(0)]), alone, np.arange(1)).groups == ()


def test_a_thousand_equal_images_are_one_group_at_linear_cost(monkeypatch):
    compared = []
    monkeypatch.setattr(looks, "same_picture", lambda a, b: compared.append(0) or same_picture(a, b))
    image = picture(0, 40)
    for jitter in (0.0, 0.01):
        compared.clear()
        found = found_among([image] * 1000, [0] * 1000, jitter=jitter)
        assert found.groups == (tuple(range(1000)),)
        assert len(compared) < 10_000  # of 499,500 pairs


def test_a_burst_of_frames_is_one_group():
    random = np.random.default_rng(0)
    frame = picture(0, 100)
    burst = []
    for _ in range(40):
        top, left = random.integers(0, 4, 2)
        moved = frame[top : top + 96, left : left + 96] + random.normal(0, 2, (96, 96, 3))
        burst.append(np.clip(moved, 0, 255).astype(np.uint8))
    found = found_among([*burst, *(picture(seed) for seed in range(1, 6))], [0] * 40 + list(range(1, 6)))
    assert [len(group) for group in found.groups] == [40]


def test_workers_find_the_same_and_progress_is_told(told):
    images = [picture(seed // 2) for seed in range(80)]
    near = near_by([row // 2 for row in range(80)])
    alone = duplicates_among(Pictures(images), near, np.arange(80))
    together = duplicates_among(Pictures(images), near, np.arange(80), workers=2)
    assert together == alone or (together.groups, together.pairs) == (alone.groups, alone.pairs)
    assert ("reading candidates for near-duplicates", 80, 80) in told.steps
    assert told.steps[-1][0] == "comparing candidates for near-duplicates"


def test_looks_are_read_by_processes_that_are_not_forked(tmp_path):
    with looks.read_looks(Pictures([picture(0), picture(0), picture(1)]), np.array([0, 1, 2]), folder=tmp_path) as held:
        again = pickle.loads(pickle.dumps(held))  # noqa: S301  # made here
        assert len(pickle.dumps(held)) < 10_000
        assert again.compare(0, 1).how == "same pixels"
        assert again.compare(0, 2) is None
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_finished_search_is_taken_up_and_a_damaged_file_is_not(tmp_path):
    images = [picture(seed // 2) for seed in range(8)]
    shown = [row // 2 for row in range(8)]
    first = duplicates_among(Pictures(images), near_by(shown), np.arange(8), folder=tmp_path)
    source = Pictures(images)
    again = duplicates_among(source, near_by(shown), np.arange(8), folder=tmp_path)
    assert source.asked == []
    assert (again.groups, again.pairs, again.looked) == (first.groups, first.pairs, first.looked)
    (tmp_path / duplicates.KEPT).write_text('{"key": 1')
    assert duplicates_among(source, near_by(shown), np.arange(8), folder=tmp_path).groups == first.groups
    assert source.asked


def test_mining_finds_and_stores_them(sdclr_run, collection, out):
    images = np.stack([collection.image(index) for index in range(60)])
    source = ArraySource(np.concatenate([images, images[:6]]), name="twice")
    mined = mine_features(source, MineConfig(batch_size=32), encoder=sdclr_run, out=out)
    expected = {(row, 60 + row) for row in range(6)}
    assert expected <= {(group[0], other) for group in mined.scores.duplicates for other in group[1:]}
    read = Scores.read(out / "scores.parquet")
    assert read.duplicates == mined.scores.duplicates == mined.duplicates.groups
    without = mine_features(source, MineConfig(batch_size=32, duplicates=False), encoder=sdclr_run, out=out)
    assert without.duplicates is None
    assert without.scores.duplicates == ()
    np.testing.assert_array_equal(without.scores.rank, mined.scores.rank)


def test_embeddings_without_pixels_report_none(tmp_path):
    features = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    np.save(tmp_path / "features.npy", np.concatenate([features, features]))
    found = sdclr.find_duplicates(tmp_path / "features.npy", out=tmp_path / "out")
    assert found.groups == ()
    assert found.candidates >= 20
    assert found.looked == 0


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(8):
        Image.fromarray(picture(number, 120)).save(images / f"{number}.png")
    Image.fromarray(picture(3, 120)).save(images / "caf\u00e9, 3.jpg", quality=60)
    Image.fromarray(picture(5, 120)[10:, 5:]).save(images / "5 cropped.png")
    (images / "broken.png").write_bytes(b"\x89PNG nothing")
    return images


def embeddings(folder, tmp_path):
    source = open_source(folder)
    shown = [
        int(next(letter for letter in name if letter.isdigit())) if name != "broken.png" else 9 for name in source.ids
    ]
    centers = np.random.default_rng(1).normal(size=(10, 64))
    jitter = 0.01 * np.random.default_rng(0).normal(size=(len(shown), 64))
    np.save(tmp_path / "features.npy", (centers[shown] + jitter).astype(np.float32))
    return tmp_path / "features.npy"


def test_the_command_tells_and_writes_lists(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    arguments = ["duplicates", str(folder), "--encoder", str(embeddings(folder, tmp_path)), "--workers", "0"]
    main([*arguments, "--out", "drop.csv", "--marks", "marks.csv"])
    told = capsys.readouterr().out
    assert "2 groups of near-duplicates: 2 images could be dropped." in told
    assert "drop caf\u00e9, 3.jpg (recompressed, similarity" in told
    assert "sdclr apply marks.csv" in told
    with (tmp_path / "drop.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["drop"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"caf\u00e9, 3.jpg", "5 cropped.png"}
    assert rows["5 cropped.png"]["keep"] == "5.png"
    assert "cropped" in rows["5 cropped.png"]["how"]
    assert rows["5 cropped.png"]["drop_path"] == str(folder / "5 cropped.png")
    with (tmp_path / "marks.csv").open(newline="", encoding="utf-8") as file:
        marks = list(csv.DictReader(file))
    assert {(mark["path"], mark["mark"], mark["label"]) for mark in marks} == {
        (str(folder / name), "drop", "") for name in rows
    }
    assert before == sorted(path.name for path in folder.iterdir())


def test_mine_says_how_many_there_are(folder, tmp_path, capsys):
    encoder, out = str(embeddings(folder, tmp_path)), str(tmp_path / "out")
    main(["mine", str(folder), "--encoder", encoder, "--out", out, "--no-page", "--workers", "0"])
    assert "2 groups of near-duplicates: 2 images could be dropped." in capsys.readouterr().out
