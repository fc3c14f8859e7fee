"""The index of features against exact neighbors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sdclr.data.sources import ArraySource
from sdclr.errors import InputError
from sdclr.features.nearest import nearest
from sdclr.reporting.page_search import remove_searches, write_search
from sdclr.reporting.search_index import make_index, write_index


def clustered(images: int, width: int, seed: int = 0) -> np.ndarray:
    """Positive features with a large mean, as after a ReLU; variance falls with the component."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(20, width)) * 3 / np.sqrt(1 + np.arange(width))
    points = centers[random.integers(20, size=images)] + random.normal(size=(images, width)) / np.sqrt(
        1 + np.arange(width)
    )
    turned = points @ np.linalg.qr(random.normal(size=(width, width)))[0]
    return np.maximum(turned + 1, 0).astype(np.float32)


def exact(features: np.ndarray, rows: np.ndarray, k: int = 10) -> np.ndarray:
    return nearest(features[rows], k).indices.numpy()


def found(index, k: int = 10) -> np.ndarray:
    similarities = index.similarities(index.row(np.arange(len(index.codes))))
    np.fill_diagonal(similarities, -np.inf)
    return np.argsort(-similarities, axis=1)[:, :k]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(one.tolist(), other.tolist(), strict=True)]))


def test_all_components_keep_all_neighbors():
    features, rows = clustered(400, 24), np.random.default_rng(1).permutation(400)[:380]
    index = make_index(features, rows)
    assert index.codes.shape == (380, 24)
    assert overlap(found(index), exact(features, rows)) > 0.97
    assert index.recall > 0.97
    whole = features[rows] / np.linalg.norm(features[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(index.similarities(index.row(np.arange(5))), whole[:5] @ whole.T, atol=0.01)


def test_the_recall_that_is_told_is_the_recall_that_is_found():
    features, rows = clustered(300, 256), np.arange(300)
    index = make_index(features, rows, dimensions=(32,))
    assert index.codes.shape == (300, 32)
    assert index.recall == pytest.approx(overlap(found(index), exact(features, rows)), abs=0.03)
    assert 0.3 < index.recall < 0.95


def test_more_components_are_taken_until_neighbors_are_kept():
    features = clustered(300, 256)
    few = make_index(features, np.arange(300), dimensions=(8, 16))
    more = make_index(features, np.arange(300), dimensions=(8, 16, 32, 64, 128, 192))
    assert few.recall < 0.95
    assert few.codes.shape[1] == 16
    assert more.codes.shape[1] > 16
    assert more.recall > few.recall


def test_the_division_of_the_similarity_finds_more_than_the_plain_product():
    """What the docstring of `SearchIndex` says of it."""
    features, rows = clustered(500, 300), np.arange(500)
    index = make_index(features, rows, dimensions=(32,))
    kept = index.row(rows)
    products = kept @ kept.T
    np.fill_diagonal(products, -np.inf)
    plain = np.argsort(-products, axis=1)[:, :10]
    assert overlap(found(index), exact(features, rows)) >= overlap(plain, exact(features, rows))


def test_a_query_from_outside_and_from_the_collection():
    features = clustered(200, 80)
    index = make_index(features, np.arange(200))
    similarities = index.similarities(index.query(features[[3, 150]] * 7))  # length does not matter
    assert similarities.argmax(axis=1).tolist() == [3, 150]
    np.testing.assert_allclose(similarities[[0, 1], [3, 150]], 1, atol=0.01)


def test_a_limit_costs_components_then_the_index():
    features, rows = clustered(300, 200), np.arange(300)
    whole = make_index(features, rows, dimensions=(32, 64, 128))
    less = make_index(features, rows, limit=300 * 64 * 4 // 3, dimensions=(32, 64, 128))
    assert less.codes.shape[1] == 64 < whole.codes.shape[1]
    assert less.bytes <= 300 * 64 * 4 // 3
    assert make_index(features, rows, limit=300 * 31, dimensions=(32, 64)) is None


def test_a_million_images_have_no_index_and_are_not_read():
    class Unread(np.ndarray):
        def __getitem__(self, _):
            raise AssertionError("read")

    features = np.broadcast_to(np.float32(0), (1_000_000, 1280)).view(Unread)
    assert make_index(features, np.arange(1_000_000)) is None


def test_bad_images_are_not_indexed_and_may_be_nan():
    features = clustered(100, 40)
    features[[7, 50]] = np.nan
    rows = np.delete(np.arange(100), [7, 50])
    assert len(make_index(features, rows).codes) == 98
    with pytest.raises(InputError, match="features of image 7 are not finite"):
        make_index(features, np.arange(100))


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    features, rows = clustered(300, 100), np.random.default_rng(0).permutation(300)
    whole = make_index(features, rows, dimensions=(32,))
    monkeypatch.setattr("sdclr.reporting.search_index._BLOCK", 7)
    parts = make_index(features, rows, dimensions=(32,))
    assert (whole.codes == parts.codes).mean() > 0.99  # rounding
    assert parts.recall == pytest.approx(whole.recall, abs=0.005)
    np.testing.assert_allclose(
        parts.similarities(parts.row(rows[:3])), whole.similarities(whole.row(rows[:3])), atol=0.02
    )


@pytest.mark.parametrize("images", [2, 3, 11])
def test_a_few_images(images):
    features = clustered(images, 40)
    index = make_index(features, np.arange(images))
    assert index.codes.shape == (images, images)
    assert overlap(found(index, 1), exact(features, np.arange(images), 1)) == 1


def test_equal_images_and_zeros():
    features = np.zeros((40, 33), dtype=np.float32)
    features[:20] = 1
    index = make_index(features, np.arange(40))
    similarities = index.similarities(index.row(np.array([0])))[0]
    assert similarities[:20].min() > 0.99
    assert similarities[20:].max() < 0.5


def test_the_index_is_the_same_each_time_and_from_disk(tmp_path: Path):
    features = clustered(300, 100)
    np.save(tmp_path / "features.npy", features)
    rows = np.random.default_rng(0).permutation(300)
    one = make_index(features, rows)
    other = make_index(np.load(tmp_path / "features.npy", mmap_mode="r"), rows)
    assert np.array_equal(one.codes, other.codes)
    assert one.recall == other.recall


def test_scripts_hold_all_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdclr.reporting.search_index._SCRIPT", 3000)
    index = make_index(clustered(200, 40), np.arange(200))
    told = write_index(tmp_path, "search-", index)
    assert len(told["scripts"]) == 3
    sizes = [(tmp_path / name).stat().st_size for name in told["scripts"]]
    assert index.bytes <= sum(sizes) <= index.bytes + 200
    parts = [json.loads((tmp_path / name).read_text()[len("sdclrCodes(") : -3]) for name in told["scripts"]]
    assert [part["first"] for part in parts] == [0, 75, 150]


def written(folder: Path, features: np.ndarray | None, stamp: str = "0" * 12, **settings) -> dict | None:
    images = np.zeros((100, 16, 16, 3), dtype=np.uint8)
    rows = np.arange(100)
    told = write_search(folder, stamp, features, rows, ArraySource(images, name="made"), **settings)
    remove_searches(folder, told)
    return told


def test_scripts_of_an_earlier_search_go_and_nothing_else(tmp_path: Path):
    (tmp_path / "search-notes.js").write_text("mine")
    first = written(tmp_path, clustered(100, 40))
    assert {file.name for file in tmp_path.iterdir()} == {"search-notes.js", *first["index"]["scripts"]}
    again = written(tmp_path, clustered(100, 40, seed=1), stamp="1" * 12)
    assert {file.name for file in tmp_path.iterdir()} == {"search-notes.js", *again["index"]["scripts"]}
    assert written(tmp_path, None) is None
    assert {file.name for file in tmp_path.iterdir()} == {"search-notes.js"}


def test_the_page_says_what_is_left_out(tmp_path: Path):
    told = written(tmp_path, clustered(100, 40), limit=2**10)
    assert told["index"] is None
    assert "sdclr neighbors" in told["why"]
    about = written(tmp_path, clustered(100, 40))["about"]
    assert re.search(r"finds \d+% of .* \d+ components of 40 features", about)
    assert "sdclr neighbors IMAGES --queries FILE" in about  # no encoder is there for files


def test_features_of_other_images_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"shape \(99, 40\) for 100 images"):
        written(tmp_path, clustered(99, 40))
