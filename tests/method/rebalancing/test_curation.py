"""Weights by a tree of clusters: against drawing subsets from it, their bounds, and the control."""

import dataclasses
import random
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr.method.rebalancing.curation import Curation, CurationConfig, curated_weights

QUICK = settings(max_examples=40, deadline=None)
TREES = st.integers(1, 3).flatmap(
    lambda levels: st.lists(st.lists(st.integers(0, 3), min_size=levels, max_size=levels), min_size=1, max_size=60)
).map(torch.tensor)  # fmt: skip


def drawn_subset(clusters: list[list[int]], members: list[int], count: int, level: int) -> list[int]:
    """Draw a subset one image at a time: the part of the tree that has given the fewest images gives the next."""
    if level == len(clusters[0]):
        return random.sample(members, count)
    children = defaultdict(list)
    for member in members:
        children[clusters[member][level]].append(member)
    given = dict.fromkeys(children, 0)
    for _ in range(count):
        open_ones = [child for child, has in children.items() if given[child] < len(has)]
        least = min(given[child] for child in open_ones)
        given[random.choice([child for child in open_ones if given[child] == least])] += 1
    return [one for child, has in children.items() for one in drawn_subset(clusters, has, given[child], level + 1)]


def test_weights_are_the_frequencies_of_images_in_drawn_subsets():
    clusters = [[0, 0]] * 20 + [[0, 1]] * 4 + [[1, 2]] * 12 + [[1, 3]] * 3 + [[1, 4]] + [[2, 5]] * 2
    random.seed(0)
    for count in (42, 30, 12):
        found = np.zeros(len(clusters))
        for _ in range(2000):
            found[drawn_subset(clusters, list(range(len(clusters))), count, 0)] += 1
        weights = curated_weights(torch.tensor(clusters), share=count / 42)
        np.testing.assert_allclose(weights * count / 42, found / 2000, atol=0.06)


def test_a_subset_of_nearly_no_images_weighs_by_the_tree_alone():
    clusters = torch.tensor([[0, 0]] * 20 + [[0, 1]] * 4 + [[1, 2]] * 12 + [[1, 3]] * 3 + [[2, 4]] * 2)
    weights = curated_weights(clusters, share=1e-6)
    # One over siblings at each level and images of the smallest cluster.
    expected = (
        [1 / 3 / 2 / 20] * 20 + [1 / 3 / 2 / 4] * 4 + [1 / 3 / 2 / 12] * 12 + [1 / 3 / 2 / 3] * 3 + [1 / 3 / 2] * 2
    )
    assert weights.tolist() == pytest.approx([41 * each for each in expected])


@QUICK
@given(TREES, st.floats(0.01, 1))
def test_weights_have_mean_one_keep_their_bound_and_are_alike_within_a_cluster(clusters, share):
    weights = curated_weights(clusters, share=share)
    assert weights.dtype == torch.float64
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights.min()) > 0
    assert float(weights.max()) <= 1 / share * (1 + 1e-9)
    by_cluster = defaultdict(set)
    for path, weight in zip(clusters.tolist(), weights.tolist(), strict=True):
        by_cluster[tuple(path)].add(weight)
    assert all(len(found) == 1 for found in by_cluster.values())
    # Of two clusters of one parent, the larger one's images never weigh more.
    sizes = {path: sum(tuple(row) == path for row in clusters.tolist()) for path in by_cluster}
    for one, weight in by_cluster.items():
        for other, lesser in by_cluster.items():
            if one[:-1] == other[:-1] and sizes[one] <= sizes[other]:
                assert min(weight) >= min(lesser) * (1 - 1e-9)


@QUICK
@given(TREES)
def test_a_subset_of_all_images_weighs_all_alike(clusters):
    assert curated_weights(clusters, share=1.0).tolist() == pytest.approx([1.0] * len(clusters))


def test_images_of_no_cluster_weigh_one():
    clusters = torch.tensor([[0, 0], [-1, -1], [0, 0], [1, 1], [-1, -1]])
    weights = curated_weights(clusters, share=2 / 3)
    assert weights.tolist() == pytest.approx([0.75, 1, 0.75, 1.5, 1])
    assert curated_weights(torch.full((4, 2), -1)).tolist() == [1] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 0.0}, r"in \(0, 1\]"),
        ({"share": float("nan")}, r"in \(0, 1\]"),
        ({"levels": 0}, "1 to 8 levels"),
        ({"levels": 9}, "1 to 8 levels"),
        ({"start": 1.0}, r"in \[0, 1\)"),
        ({"every": 0}, "1 or more"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CurationConfig(**wrong)


def test_clusters_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"give \(N, L\)"):
        curated_weights(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"in \(0, 1\], not 2"):
        curated_weights(torch.zeros(5, 1, dtype=torch.int64), share=2)
    with pytest.raises(ValueError, match="clusters of 4 images for 5"):
        Curation(5, epochs=4).update(torch.zeros(4, 1, dtype=torch.int64))


def test_a_look_is_due_every_few_epochs_from_the_start_on():
    curation = Curation(4, epochs=50, config=CurationConfig(start=0.21, every=7))
    assert [epoch for epoch in range(50) if curation.due(epoch)] == [11, 18, 25, 32, 39, 46]
    assert curation.sampling is None
    curation.update(torch.tensor([[0], [0], [0], [1]]))
    assert torch.equal(curation.sampling, curated_weights(torch.tensor([[0], [0], [0], [1]])))
    losses = torch.rand(2)
    assert curation(losses, (losses, losses), torch.tensor([0, 2])) is losses


def test_the_control_deals_the_same_weights_out_at_random_and_always_to_the_same():
    clusters = torch.arange(200)[:, None].float().sqrt().long()
    config = CurationConfig()
    shuffled = dataclasses.replace(config, control="shuffled")
    made = (config, shuffled, shuffled, dataclasses.replace(shuffled, seed=1))
    true, one, two, other = (Curation(200, epochs=4, config=each) for each in made)
    state = torch.get_rng_state()
    for curation in (true, one, two, other):
        curation.update(clusters)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.weights, two.weights)
    assert not torch.equal(one.weights, other.weights)
    assert torch.equal(one.weights.sort().values, true.weights.sort().values)
    assert abs(float(np.corrcoef(one.weights, true.weights)[0, 1])) < 0.3


def test_weights_travel_with_the_state():
    curation, other = Curation(4, epochs=4), Curation(4, epochs=4)
    curation.update(torch.tensor([[0], [0], [0], [1]]))
    other.load_state_dict(curation.state_dict())
    assert torch.equal(other.weights, curation.weights)
    assert not torch.equal(other.weights, torch.ones(4, dtype=torch.float64))
