"""Approximate neighbors, and the choice between them and an exact search."""

import numpy as np
import pytest
import torch

from sdclr.errors import InputError
from sdclr.features import approximate
from sdclr.features.approximate import find_neighbors, is_approximate, sample_recall
from sdclr.features.nearest import Neighbors, nearest


@pytest.fixture
def features() -> torch.Tensor:
    """Rows of 40 groups, none of length 1."""
    generator = torch.Generator().manual_seed(2)
    centers = torch.randn(40, 24, generator=generator)
    return centers.repeat(75, 1) + 0.5 * torch.randn(3000, 24, generator=generator)


def overlap(found: Neighbors, true: Neighbors) -> float:
    """Recall, computed with sets."""
    pairs = zip(found.indices.tolist(), true.indices.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_most_true_neighbors_are_found_at_exact_distances(features, metric, monkeypatch):
    monkeypatch.setattr(approximate, "PROBES", 12)
    true = nearest(features, 15, metric=metric)
    found = find_neighbors(features, 15, metric=metric, approximate=True)
    assert overlap(found, true) >= 0.95
    assert not (found.indices == torch.arange(3000)[:, None]).any()
    assert (found.distances.diff(dim=1) >= 0).all()
    same = found.indices[:, 0] == true.indices[:, 0]
    torch.testing.assert_close(found.distances[same, 0], true.distances[same, 0], atol=1e-5, rtol=1e-4)
    assert sample_recall(features, found, metric=metric) == pytest.approx(overlap(found, true), abs=0.02)


def test_recall_tells_what_is_missing(features):
    true = nearest(features, 10)
    assert sample_recall(features, true) == 1
    # The five nearest are right, the others are the farthest of twenty.
    far = nearest(features, 20)
    columns = [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    half = Neighbors(far.distances[:, columns], far.indices[:, columns])
    assert sample_recall(features, half) == pytest.approx(0.5, abs=0.01)


def test_the_same_every_time(features):
    first, again = (find_neighbors(features, 5, approximate=True) for _ in range(2))
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.distances, again.distances)


def test_queries_of_their_own(features, monkeypatch):
    monkeypatch.setattr(approximate, "PROBES", 12)
    queries = features[:200] + 0.01
    found = find_neighbors(features, 6, queries=queries, approximate=True)
    assert found.indices.shape == (200, 6)
    assert overlap(found, nearest(features, 6, queries=queries)) > 0.95
    assert (found.indices[:, 0] == torch.arange(200)).float().mean() > 0.9


def test_work_decides(features, monkeypatch):
    assert not is_approximate(features, 3000)
    exact = find_neighbors(features, 5)
    assert torch.equal(exact.indices, nearest(features, 5).indices)
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 1000)
    assert is_approximate(features, 3000)
    assert not is_approximate(features, 300)
    assert not is_approximate(features.to("meta"), 3000)
    calls = []
    monkeypatch.setattr(approximate, "_approximate", lambda *_: calls.append(1))
    find_neighbors(features, 5)
    find_neighbors(features, 5, queries=features[:300])
    find_neighbors(features, 5, approximate=False)
    assert len(calls) == 1


def test_copies_and_lists_with_too_few_vectors(features, monkeypatch):
    """A query's only list may hold fewer than k vectors, or more copies of it than neighbors."""
    monkeypatch.setattr(approximate, "PROBES", 1)
    rows = torch.cat([features[:1].expand(100, -1), features])
    found = find_neighbors(rows, 90, approximate=True)
    assert found.indices.min() >= 0
    assert not (found.indices == torch.arange(len(rows))[:, None]).any()
    assert all(len(set(row)) == 90 for row in found.indices.tolist())


@pytest.mark.parametrize("k", [0, 10])
def test_as_many_neighbors_as_there_are(k):
    with pytest.raises(InputError, match="choose k from 1 to 9"):
        find_neighbors(torch.rand(10, 4), k, approximate=True)


def test_few_images():
    features = torch.rand(10, 4)
    found = find_neighbors(features, 9, approximate=True)
    torch.testing.assert_close(found.distances, nearest(features, 9).distances, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_recall_is_measured_in_parts(monkeypatch, metric):
    features = torch.rand(1000, 8, generator=torch.Generator().manual_seed(0))
    found = approximate.nearest(features, 10, metric=metric)
    worse = Neighbors(found.distances * 1.05, found.indices)
    whole = [approximate.sample_recall(features, near, metric=metric) for near in (found, worse)]
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 300)
    parts = [approximate.sample_recall(features, near, metric=metric) for near in (found, worse)]
    assert whole == parts
    assert whole[0] == 1 > whole[1] > 0.2
