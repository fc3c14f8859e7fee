"""Maps of collections."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.manifold import trustworthiness

from sdclr.errors import InputError
from sdclr.features import projection
from sdclr.features.nearest import Neighbors, nearest
from sdclr.features.projection import describe_map, project


def clusters(count: int = 300, width: int = 16) -> tuple[torch.Tensor, np.ndarray]:
    """Features of three groups of images, and the group of each."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.eye(width)[:3]
    group = torch.arange(count) % 3
    return centers[group] + 0.05 * torch.randn(count, width, generator=generator), group.numpy()


def neighbors_of(features: torch.Tensor) -> Neighbors:
    if len(features) == 1:
        return Neighbors(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    return nearest(features, min(15, len(features) - 1))


def test_groups_stay_together_and_neighbors_near():
    features, group = clusters()
    near = neighbors_of(features)
    found = project(near)
    assert found.shape == (300, 2)
    assert found.dtype == np.float32
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(axis=1)] == group).mean() == 1
    # A place at random gives 0.5.
    assert trustworthiness(features.numpy(), found, n_neighbors=10, metric="cosine") > 0.85


def test_same_seed_same_map_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(projection, "_MANY", 0)
    near = neighbors_of(clusters(90)[0])
    first = project(near, seed=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(first, project(near, seed=3))
    finally:
        torch.set_num_threads(threads)
    assert not np.array_equal(first, project(near, seed=4))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17])
@pytest.mark.parametrize("alike", [False, True])
def test_few_images_and_images_that_are_all_alike(count, alike):
    features = torch.ones(count, 8) if alike else torch.rand(count, 8)
    found = project(neighbors_of(features))
    assert found.shape == (count, 2)
    assert np.isfinite(found).all()
    assert np.abs(found.mean(axis=0)).max() < 1e-3


def test_three_images_keep_their_distances():
    features = torch.nn.functional.normalize(torch.rand(3, 8))
    np.testing.assert_allclose(pdist(project(neighbors_of(features))), pdist(features), rtol=1e-3)


def test_duplicates_beside_others():
    features = clusters(60)[0]
    found = project(neighbors_of(torch.cat([features, features[:30], features[:1].expand(40, -1)])))
    assert np.isfinite(found).all()


@pytest.mark.slow
def test_large_collections_are_placed_in_two_levels(monkeypatch):
    features, group = clusters()
    # A burst whose members list only each other: no landmark among them may be drawn.
    lonely = torch.eye(16)[15] + 0.01 * torch.randn(17, 16)
    near = neighbors_of(torch.cat([features, lonely]))
    monkeypatch.setattr(projection, "PLACED_AT_ONCE", 100)
    found = project(near)
    np.testing.assert_array_equal(found, project(near))
    assert np.isfinite(found).all()
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    group = np.append(group, [3] * 17)
    assert (group[apart.argmin(axis=1)] == group).mean() > 0.98
    assert "groups" in describe_map(317)
    assert "groups" not in describe_map(100)


def test_groups_without_a_landmark_are_their_own():
    indices = neighbors_of(torch.cat([clusters(90)[0], torch.eye(16)[15] + 0.01 * torch.randn(16, 16)])).indices

    class Landmarks:
        """Draws the first images."""

        def permutation(self, count: int) -> np.ndarray:
            return np.arange(count)

    group = projection._groups(indices.numpy(), Landmarks())
    assert len(set(group[90:])) == 1
    assert not set(group[90:]) & set(group[:90])


def test_progress_counts_all_steps(told):
    near = neighbors_of(clusters(60)[0])
    told.steps.clear()
    project(near)
    seen = told.counts()
    assert seen[-1] == (300, 300)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("indices", [torch.zeros(3, dtype=torch.int64), torch.tensor([[5], [0]]), torch.ones(0, 1)])
def test_neighbors_of_others_are_refused(indices):
    with pytest.raises(InputError, match="all images among themselves"):
        project(Neighbors(torch.zeros(indices.shape), indices.long()))


@pytest.mark.parametrize("count", [17, 20, 30])
def test_few_images_have_a_spot_each(count):
    features = torch.randn(count, 32, generator=torch.Generator().manual_seed(count))
    places = project(nearest(features, 15))
    side = np.ptp(places, axis=0).max()
    assert len(np.unique((places / side * 300).round(), axis=0)) == count
