from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from sdclr.data.drawing import train_validation_split
from sdclr.errors import InputError
from sdclr.longtail.index_lists import load_index_list
from sdclr.longtail.splits import (
    PAPER_SEEDS,
    PARETO_CUT,
    class_groups,
    long_tail_counts,
    long_tail_split,
)

TEN_CLASSES = np.repeat(np.arange(10), 60)


@pytest.mark.parametrize(
    ("num_classes", "max_count", "total", "smallest"),
    [(10, 4500, 11165, 45), (100, 450, 9754, 4), (10, 5000, 12406, 50)],
)
def test_counts_have_the_published_totals(num_classes, max_count, total, smallest):
    counts = long_tail_counts(num_classes, max_count, 100)
    assert counts.sum() == total
    assert counts[0] == max_count
    assert counts[-1] == smallest


def test_counts_cifar100_of_later_papers():
    assert long_tail_counts(100, 500, 100).sum() == 10847


@given(
    num_classes=st.integers(2, 30),
    max_count=st.integers(1, 10**6),
    imbalance=st.one_of(st.integers(1, 300), st.floats(1, 300)),
)
def test_counts_are_the_exact_floor(num_classes, max_count, imbalance):
    if imbalance > max_count:
        with pytest.raises(InputError, match="lower imbalance"):
            long_tail_counts(num_classes, max_count, imbalance)
        return
    counts = long_tail_counts(num_classes, max_count, imbalance)
    steps = num_classes - 1
    for rank, count in enumerate(counts.tolist()):
        # n <= max * IF^(-k/steps) < n + 1, to the power `steps`, in rational numbers.
        target = Fraction(max_count) ** steps / Fraction(imbalance) ** rank
        assert count**steps <= target < (count + 1) ** steps


@pytest.mark.parametrize(("base", "steps"), [(10, 3), (3, 7), (7, 5), (2, 19)])
def test_counts_keep_whole_numbers_whole(base, steps):
    counts = long_tail_counts(steps + 1, base**steps, base**steps)
    assert counts.tolist() == [base**k for k in range(steps, -1, -1)]


def test_counts_of_one_class_and_of_a_step():
    assert long_tail_counts(1, 7, 50).tolist() == [7]
    assert long_tail_counts(5, 100, 8, profile="step").tolist() == [100, 100, 100, 12, 12]


def pareto(num_classes, most, least, cut):
    """The formula of `long_tail_counts`, written plainly."""
    quantiles = []
    for k in range(num_classes):
        survival = cut + (1 - cut) * k / max(num_classes - 1, 1)
        quantiles.append(least + (most - least) * (survival ** (-1 / 6) - 1) / (cut ** (-1 / 6) - 1))
    return np.array(quantiles)


@given(
    num_classes=st.integers(3, 60),
    most=st.integers(2, 3000),
    imbalance=st.floats(1, 3000),
    share=st.floats(0, 1),
)
def test_pareto_counts_are_exact_at_both_ends_and_in_total(num_classes, most, imbalance, share):
    imbalance = min(imbalance, most)
    least = round(most / imbalance)
    lowest = most + (num_classes - 1) * least
    highest = int(pareto(num_classes, most, least, 1 - 1e-6).sum())  # almost a straight line
    total = lowest + int(share * (highest - lowest))
    counts = long_tail_counts(num_classes, most, imbalance, profile="pareto", total=total)
    assert (counts[0], counts[-1], counts.sum(), counts.dtype) == (most, least, total, np.int64)
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize(
    ("num_classes", "least", "total", "survivors"),
    [(1000, 5, 115_846, 1261), (100, 6, 12_205, 1317)],  # ImageNet-LT and ImageNet-100-LT
)
def test_pareto_counts_are_the_rounded_quantiles(num_classes, least, total, survivors):
    cut = brentq(lambda cut: pareto(num_classes, 1280, least, cut).sum() - total, 1e-9, 0.5, xtol=1e-15)
    assert round(1 / cut) == survivors
    counts = long_tail_counts(num_classes, 1280, 1280 / least, profile="pareto", total=total)
    exact = pareto(num_classes, 1280, least, cut)
    assert (np.abs(counts - exact) < 1).all()
    # The largest remainders were rounded up.
    up = counts > exact
    assert (exact % 1)[up].min() >= (exact % 1)[~up & (np.abs(counts - exact) > 1e-6)].max()


def test_pareto_counts_without_a_total_keep_the_shape_of_imagenet_lt():
    assert abs(long_tail_counts(1000, 1280, 256, profile="pareto").sum() - 115_846) < 5
    counts = long_tail_counts(20, 400, 80, profile="pareto")
    exact = pareto(20, 400, 5, PARETO_CUT)
    assert (np.abs(counts - exact) < 1).all()
    assert counts.sum() == round(exact.sum())
    assert long_tail_counts(1, 7, 7, profile="pareto").tolist() == [7]
    assert long_tail_counts(2, 9, 3, profile="pareto").tolist() == [9, 3]
    assert long_tail_counts(3, 9, 1, profile="pareto").tolist() == [9, 9, 9]


def test_pareto_profile_is_near_the_published_list(shared_data: Path):
    lines = (shared_data / "splits" / "imagenet-100" / "imageNet_100_LT_train.txt").read_text().splitlines()
    published = np.sort(np.bincount([int(line.split()[1]) for line in lines]))[::-1]
    ours = long_tail_counts(100, 1280, 1280 / 6, profile="pareto", total=12_205)
    assert (published[0], published[-1], published.sum()) == (ours[0], ours[-1], ours.sum()) == (1280, 6, 12_205)
    # Class by class: within 8 % and one image, 2.5 images on average. The widest gap is 679 to 626, at rank 2.
    apart = np.abs(ours - published)
    assert (apart <= 1 + 0.08 * published).all()
    assert apart.mean() < 2.6
    assert apart.argmax() == 1
    # An exponential tail with these ends is nowhere near: its total is 24,123.
    assert np.abs(long_tail_counts(100, 1280, 213) - published).mean() > 50


@pytest.mark.parametrize(
    ("profile", "total", "message"),
    [
        ("pareto", 1299, "total is 1299; a Pareto tail of 21 classes from 1000 down to 15 images has between 1300 and"),
        ("pareto", 10_700, "total is 10700; .* between 1300 and 10657"),
        ("exponential", 5000, "the total of the exponential profile is fixed; leave it out"),
        ("step", 5000, "the total of the step profile is fixed"),
    ],
)
def test_totals_out_of_reach_are_refused(profile, total, message):
    with pytest.raises(InputError, match=message):
        long_tail_counts(21, 1000, 1000 / 15, profile=profile, total=total)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 2), "num_classes is 0"),
        ((3, 0, 2), "max_count is 0"),
        ((3, 10, 0.5), "imbalance is 0.5"),
        ((3, 10, float("nan")), "imbalance is nan"),
        ((3, 10, float("inf")), "imbalance is inf"),
    ],
)
def test_counts_refuse_nonsense(arguments, message):
    with pytest.raises(InputError, match=message):
        long_tail_counts(*arguments)


def test_counts_refuse_an_unknown_profile():
    with pytest.raises(InputError, match="'linear'"):
        long_tail_counts(3, 10, 2, profile="linear")


@given(
    sizes=st.lists(st.integers(30, 60), min_size=2, max_size=8),
    imbalance=st.floats(1, 20),
    seed=st.integers(0, 2**63),
    fraction=st.floats(0, 0.03),
)
def test_split_properties(sizes, imbalance, seed, fraction):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    split = long_tail_split(labels, max_count=30, imbalance=imbalance, seed=seed, few_shot_fraction=fraction)

    expected = long_tail_counts(len(sizes), 30, imbalance)
    assert np.bincount(labels[split.long_tail], minlength=len(sizes)).tolist() == split.counts.tolist()
    assert split.counts[split.class_order].tolist() == expected.tolist()
    assert sorted(split.class_order) == list(range(len(sizes)))

    share = expected.sum() // len(sizes)
    assert np.bincount(labels[split.balanced], minlength=len(sizes)).tolist() == [share] * len(sizes)

    shots = np.bincount(labels[split.few_shot], minlength=len(sizes))
    assert len(set(shots.tolist())) == 1
    assert shots.sum() <= fraction * len(labels) + 1e-6 < shots.sum() + len(sizes) + 1e-5
    assert set(split.few_shot) <= set(split.long_tail)

    for indices in (split.long_tail, split.balanced, split.few_shot):
        assert (np.diff(indices) > 0).all()
        assert indices.dtype == np.int64


def test_split_is_a_function_of_its_seed():
    def draw(seed):
        return long_tail_split(TEN_CLASSES, max_count=50, imbalance=10, seed=seed)

    assert draw(3).long_tail.tolist() == draw(3).long_tail.tolist()
    orders = {tuple(draw(seed).class_order.tolist()) for seed in PAPER_SEEDS}
    assert len(orders) == len(PAPER_SEEDS) == 5


def test_split_is_the_same_on_every_machine():
    split = long_tail_split(np.repeat(np.arange(4), 5), max_count=4, imbalance=4, seed=1, few_shot_fraction=0.2)
    assert split.class_order.tolist() == [2, 0, 3, 1]
    assert split.long_tail.tolist() == [0, 3, 5, 10, 12, 13, 14, 15]
    assert split.few_shot.tolist() == [0, 5, 12, 15]


def test_every_class_comes_first_about_equally_often():
    first = [long_tail_split(TEN_CLASSES, max_count=10, imbalance=2, seed=seed).class_order[0] for seed in range(500)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 50) ** 2 / 50).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=10), seed=st.integers(0, 1000))
def test_fitting_order_gives_every_class_a_rank_that_it_can_hold(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)

    def draw(*, fit_order):
        return long_tail_split(
            labels, max_count=20, imbalance=10, seed=seed, few_shot_fraction=0, profile="step", fit_order=fit_order
        )

    by_rank = long_tail_counts(len(sizes), 20, 10, profile="step")
    possible = (np.sort(sizes)[::-1] >= by_rank).all() and min(sizes) >= by_rank.sum() // len(sizes)
    if not possible:
        with pytest.raises(InputError, match="lower max_count"):
            draw(fit_order=True)
        return
    split = draw(fit_order=True)
    assert split.counts[split.class_order].tolist() == by_rank.tolist()
    assert (np.bincount(labels[split.long_tail], minlength=len(sizes)) == split.counts).all()
    try:
        usual = draw(fit_order=False)
    except InputError:
        return
    assert usual.long_tail.tolist() == split.long_tail.tolist()


def test_fitting_order_counts_the_classes_that_are_too_small():
    with pytest.raises(InputError, match="asks for 3 classes of 60 images or more and the pool has 2; lower max_count"):
        long_tail_split(np.repeat([0, 1, 2, 3], [70, 59, 60, 59]), max_count=60, imbalance=1, seed=0, fit_order=True)


def test_split_draws_a_pareto_tail():
    split = long_tail_split(TEN_CLASSES, max_count=50, imbalance=10, seed=0, profile="pareto", total=150)
    assert (len(split.long_tail), split.counts.max(), split.counts.min()) == (150, 50, 5)


def test_split_keeps_to_the_pool():
    labels = TEN_CLASSES.copy()
    labels[::7] = -1
    pool = np.arange(0, 600, 2)
    split = long_tail_split(labels, max_count=20, imbalance=5, seed=0, pool=pool)
    used = np.concatenate([split.long_tail, split.balanced, split.few_shot])
    assert (used % 2 == 0).all()
    assert (labels[used] >= 0).all()


def test_split_leaves_absent_classes_out():
    split = long_tail_split(np.repeat([2, 5, 6], 20), max_count=10, imbalance=5, seed=0)
    assert sorted(split.class_order) == [2, 5, 6]
    assert split.counts[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]
    assert split.counts.sum() == long_tail_counts(3, 10, 5).sum()


def test_few_shot_size_is_not_cut_by_rounding():
    split = long_tail_split(np.zeros(100, dtype=int), max_count=100, imbalance=1, seed=0, few_shot_fraction=0.29)
    assert len(split.few_shot) == 29  # although 0.29 * 100 is 28.999999999999996


def test_few_shot_size_of_the_paper():
    labels = np.repeat(np.arange(100), 450)
    split = long_tail_split(labels, max_count=450, imbalance=100, seed=1)
    assert (len(split.long_tail), len(split.balanced), len(split.few_shot)) == (9754, 9700, 400)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_count": 61}, r"class \d has 60 images in the pool and the split needs 61; lower max_count"),
        ({"few_shot_fraction": 0.2}, "the rarest class has 5; lower few_shot_fraction"),
        ({"few_shot_fraction": 1.5}, "few_shot_fraction is 1.5"),
        ({"pool": [0, 600]}, "pool: holds index 600; give indices from 0 to 599"),
        ({"pool": [3, 3]}, "pool: repeats index 3"),
        ({"pool": []}, "no label is known"),
    ],
)
def test_split_errors_name_the_mend(options, message):
    with pytest.raises(InputError, match=message):
        long_tail_split(TEN_CLASSES, **{"max_count": 50, "imbalance": 10, "seed": 0, **options})


@pytest.mark.parametrize("labels", [np.zeros((3, 2), dtype=int), np.array([0.5, 1.0])])
def test_split_refuses_what_are_no_labels(labels):
    with pytest.raises(InputError, match="one whole number for each image"):
        long_tail_split(labels, max_count=1, imbalance=1, seed=0)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), seed=st.integers(0, 1000), data=st.data())
def test_train_validation_split_parts_every_set(sizes, seed, data):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    validation = data.draw(st.integers(0, len(labels) - 1))
    train, held_out = train_validation_split(labels, validation=validation, seed=seed)
    assert len(held_out) == validation
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()

    taken = np.bincount(labels[held_out], minlength=len(sizes))
    if validation // len(sizes) + 1 < min(sizes):
        assert taken.max() - taken.min() <= 1
    if validation <= len(labels) - len(sizes):
        exact = validation * np.array(sizes) / len(labels)
        equal = taken.max() - taken.min() <= 1
        assert equal or (np.abs(taken - exact) < 1 + 1e-9).all()


def test_train_validation_split_keeps_the_last_image_of_a_class():
    labels = np.array([0] * 50 + [1])
    for validation in (25, 49):  # 49/51 of the second class is nearer to 1 than what remains of the first
        train, _ = train_validation_split(labels, validation=validation, seed=0)
        assert 50 in train


def test_train_validation_split_of_cifar_is_equal_per_class():
    labels = np.repeat(np.arange(10), 5000)
    _, held_out = train_validation_split(labels, validation=5000, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [500] * 10


@pytest.mark.parametrize(
    ("labels", "validation", "message"),
    [
        ([0, 1], 2, "validation is 2; give a number from 0 to 1"),
        ([0, 1], -1, "validation is -1"),
        ([0, -1], 1, "1 labels are unknown"),
    ],
)
def test_train_validation_split_errors(labels, validation, message):
    with pytest.raises(InputError, match=message):
        train_validation_split(labels, validation=validation, seed=0)


@pytest.mark.parametrize(
    ("num_classes", "sizes"), [(10, (4, 3, 3)), (100, (34, 33, 33)), (11, (5, 3, 3)), (2, (2, 0, 0))]
)
def test_groups_by_thirds(num_classes, sizes):
    groups = class_groups(np.random.default_rng(0).permutation(num_classes) + 1)
    assert tuple(len(ids) for ids in groups.values()) == sizes
    assert list(groups) == ["many", "medium", "few"]


@given(counts=st.lists(st.integers(0, 500), min_size=1, max_size=60), rule=st.sampled_from(["thirds", "shots"]))
def test_groups_part_the_classes_by_size(counts, rule):
    groups = class_groups(counts, rule=rule)
    assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(len(counts)))
    sizes = [[counts[i] for i in ids] for ids in groups.values()]
    for larger, smaller in ((0, 1), (1, 2), (0, 2)):
        if sizes[larger] and sizes[smaller]:
            assert min(sizes[larger]) >= max(sizes[smaller])
    if rule == "shots":
        assert all(count > 100 for count in sizes[0])
        assert all(20 <= count <= 100 for count in sizes[1])
        assert all(count < 20 for count in sizes[2])


@pytest.mark.parametrize("counts", [[], [[1, 2]], [3, -1]])
def test_groups_refuse_what_are_no_counts(counts):
    with pytest.raises(InputError, match="train_counts"):
        class_groups(counts)


def test_groups_refuse_an_unknown_rule():
    with pytest.raises(InputError, match="'halves'"):
        class_groups([1], rule="halves")


def test_index_list_keeps_its_order(tmp_path):
    np.save(tmp_path / "list.npy", np.array([4, 0, 2], dtype=np.uint16))
    indices = load_index_list(tmp_path / "list.npy", size=5)
    assert indices.tolist() == [4, 0, 2]
    assert indices.dtype == np.int64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1]]), "one-dimensional"),
        (np.array([1.0]), "type float64"),
        (np.array([0, 5]), "index 5; give indices from 0 to 4"),
        (np.array([-1, 2]), "index -1"),
        (np.array([2, 1, 2]), "repeats index 2"),
    ],
)
def test_index_list_is_checked(tmp_path, values, message):
    path = tmp_path / "list.npy"
    np.save(path, values)
    with pytest.raises(InputError, match=message) as caught:
        load_index_list(path, size=5)
    assert str(path) in str(caught.value)


def test_index_list_never_unpickles(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.arange(3))
    (tmp_path / "text.npy").write_text("1\n2\n")
    (tmp_path / "empty.npy").touch()
    for name in ("objects.npy", "several.npz", "text.npy", "empty.npy", "missing.npy"):
        with pytest.raises(InputError, match=name):
            load_index_list(tmp_path / name)


PUBLISHED = [
    ("cifar10_imbSub_with_subsets/split1", 10, 4500, 45_000),
    ("cifar100_imbSub_with_subsets/cifar100_split1", 100, 450, 45_000),
]


@pytest.mark.parametrize(("prefix", "num_classes", "max_count", "pool"), PUBLISHED)
def test_published_lists_have_the_sizes_of_ours(shared_data: Path, prefix, num_classes, max_count, pool):
    published = {
        name: load_index_list(shared_data / "splits" / f"{prefix}_{name}.npy", size=50_000)
        for name in ("D_i", "D_b", "S_b")
    }
    labels = np.repeat(np.arange(num_classes), pool // num_classes)
    ours = long_tail_split(labels, max_count=max_count, imbalance=100, seed=1)
    assert len(published["D_i"]) == len(ours.long_tail)
    assert len(published["D_b"]) == len(ours.balanced)
    assert len(published["S_b"]) == len(ours.few_shot)
    # They are nested as ours are, image by image.
    assert np.isin(published["S_b"], published["D_i"]).all() == np.isin(ours.few_shot, ours.long_tail).all()
    assert np.isin(published["S_b"], published["D_b"]).all() == np.isin(ours.few_shot, ours.balanced).all()
    assert np.isin(published["D_b"], published["D_i"]).sum() == np.isin(ours.balanced, ours.long_tail).sum()


def test_published_training_part_holds_the_published_split(shared_data: Path):
    folder = shared_data / "splits"
    train = load_index_list(folder / "cifar10" / "trainIdxList.npy", size=50_000)
    held_out = load_index_list(folder / "cifar10" / "valIdxList.npy", size=50_000)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(50_000))
    long_tail = load_index_list(folder / "cifar10_imbSub_with_subsets" / "split1_D_i.npy", size=50_000)
    assert np.isin(long_tail, train).all()
