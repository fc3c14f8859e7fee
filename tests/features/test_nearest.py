import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from sdclr.errors import InputError
from sdclr.features.nearest import GROUP, largest, nearest


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(2, 900),
    st.sampled_from([1, 4, 64]),
    st.sampled_from([3, 50]),
)
def test_the_largest_are_those_of_a_sort(seed, k, columns, rows, distinct):
    """Few distinct values make many ties: any of equals may be named, but each column once and with its own value."""
    k = min(k, columns)
    generator = torch.Generator().manual_seed(seed)
    padded = -(-columns // GROUP) * GROUP
    values = torch.full((rows, padded), -torch.inf)
    values[:, :columns] = torch.randint(distinct, (rows, columns), generator=generator) / distinct
    found, where = largest(values, k)
    np.testing.assert_array_equal(found, -np.sort(-values.numpy(), axis=1)[:, :k])
    assert torch.equal(values.gather(1, where), found)
    assert where.max() < columns
    assert all(len(set(row)) == k for row in where.tolist())


@pytest.mark.parametrize("k", [1, 20, 199, 200])
def test_the_padding_is_never_among_the_largest(k):
    """Up to nearly as many neighbors as there are groups of columns."""
    generator = np.random.default_rng(3)
    train_x, query_x = generator.normal(size=(3300, 9)), generator.normal(size=(70, 9))
    train_x /= np.linalg.norm(train_x, axis=1, keepdims=True)
    query_x /= np.linalg.norm(query_x, axis=1, keepdims=True)
    columns = -(-3300 // GROUP) * GROUP
    table = torch.full((70, columns), -torch.inf)
    table[:, :3300] = torch.tensor(query_x @ train_x.T)
    _, ours = largest(table, k)
    theirs = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine").fit(train_x)
    np.testing.assert_array_equal(np.sort(ours, 1), np.sort(theirs.kneighbors(query_x, return_distance=False), 1))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([None, 1, 7]), st.sampled_from(["cosine", "euclidean"])
)
def test_neighbors_among_themselves_are_those_of_sklearn(seed, k, block, metric):
    rows = np.random.default_rng(seed).normal(size=(45, 6))
    ours = nearest(rows, k, metric=metric, block=block)
    theirs = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(rows)
    distances, indices = theirs.kneighbors()  # without queries, scikit-learn too leaves out the image itself
    np.testing.assert_array_equal(ours.indices, indices)
    np.testing.assert_allclose(ours.distances, distances, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [None, 64])
def test_neighbors_of_queries_are_those_of_sklearn(metric, block):
    generator = np.random.default_rng(5)
    rows, queries = generator.normal(size=(2003, 12)), generator.normal(size=(150, 12))
    ours = nearest(rows, 15, queries=queries, metric=metric, block=block)
    theirs = NearestNeighbors(n_neighbors=15, algorithm="brute", metric=metric).fit(rows)
    distances, indices = theirs.kneighbors(queries)
    np.testing.assert_array_equal(ours.indices, indices)
    np.testing.assert_allclose(ours.distances, distances, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_twin_is_a_neighbor_but_no_image_is_its_own(metric):
    rows = np.random.default_rng(0).normal(size=(20, 4))
    rows = np.concatenate([rows, rows])
    found = nearest(rows, 1, metric=metric)
    np.testing.assert_array_equal(found.indices[:, 0], (np.arange(40) + 20) % 40)
    np.testing.assert_allclose(found.distances, 0, atol=1e-6)
    assert found.distances.min() >= 0


def test_a_query_may_be_its_own_neighbor():
    rows = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_array_equal(nearest(rows, 1, queries=rows).indices[:, 0], np.arange(20))


def test_distances_of_large_features_keep_their_digits():
    """Far from the origin, the difference of squares would be all rounding."""
    rows = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.03]])
    found = nearest(rows, 1, queries=torch.tensor([[1000.0, 0.0]]), metric="euclidean")
    assert found.distances.item() == pytest.approx(torch.dist(rows[found.indices.item()], rows[0]).item(), abs=1e-7)


def test_neighbors_of_features_far_from_the_origin_are_found():
    rows = np.random.default_rng(6).normal(size=(300, 4))
    far = nearest(rows + 1000, 5, metric="euclidean")
    theirs = NearestNeighbors(n_neighbors=5).fit((rows + 1000).astype(np.float32).astype(np.float64))
    distances, indices = theirs.kneighbors()
    np.testing.assert_allclose(far.distances, distances, rtol=2e-3)
    assert (far.indices.numpy() == indices).mean() > 0.99
    assert (far.distances.diff(dim=1) >= 0).all()


def test_scale_matters_to_euclidean_distance_alone():
    rows = np.random.default_rng(1).normal(size=(60, 5))
    scaled = rows * np.random.default_rng(2).uniform(0.1, 10, size=(60, 1))
    np.testing.assert_array_equal(nearest(rows, 4).indices, nearest(scaled, 4).indices)
    near, far = nearest(rows, 4, metric="euclidean"), nearest(3 * rows, 4, metric="euclidean")
    np.testing.assert_allclose(3 * near.distances, far.distances, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0 neighbors of 4 images: choose k from 1 to 4"),
        ({"k": 5}, "k=5 neighbors of 4 images"),
        ({"k": 6, "queries": np.ones((2, 3))}, "k=6 neighbors of 5 images"),
        ({"queries": np.ones((2, 2))}, "2 features per image, not 3"),
        ({"features": np.full((3, 3), np.inf)}, "row 0 is not finite"),
    ],
)
def test_names_what_is_wrong(change, message):
    with pytest.raises(InputError, match=message):
        nearest(**{"features": np.eye(5, 3) + 1, "k": 2} | change)
