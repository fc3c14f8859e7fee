"""The data sets of the paper: real lists where they are at hand, and small sets of the same form everywhere."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from sdclr.data.drawing import train_validation_split
from sdclr.data.sources import Source, open_source
from sdclr.errors import InputError
from sdclr.longtail.index_lists import load_index_list
from sdclr.longtail.published import PUBLISHED, Published, paper_split
from sdclr.longtail.splits import class_groups, long_tail_counts, long_tail_split

PARTS = ("long_tail", "balanced", "few_shot", "full", "validation", "test")
# 10 classes of 12 images, 2 of each held out: the paper's set in small.
SMALL = Published(classes=10, max_count=10, imbalance=5, long_tail=46, balanced=40, few_shot=20, validation=20, test=20)
SMALL_LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(10), 12))


def sizes(split):
    return tuple(len(getattr(split, part)) for part in PARTS)


def per_class(source, classes):
    return np.bincount(source.labels, minlength=classes).tolist()


def disjoint(*sources):
    ids = [image_id for source in sources for image_id in source.ids]
    return len(set(ids)) == len(ids)


def write_parquet(folder, train, test):
    """A parquet copy with these labels; every image is the same file of one pixel."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    pixel = (folder / "pixel.png").read_bytes()
    for name, labels in (("train", train), ("test", test)):
        table = pa.table({"image": pa.array([pixel] * len(labels), pa.binary()), "label": labels})
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    return folder


def write_torchvision(root, labels, monkeypatch):
    """A copy in torchvision's layout, without check sums."""
    place = root / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name, members in (("data_batch_1", labels), ("test_batch", np.repeat(np.arange(10), 2))):
        rows = np.arange(len(members), dtype=np.uint8)[:, None].repeat(3072, axis=1)
        (place / name).write_bytes(pickle.dumps({"data": rows, "labels": members.tolist()}))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{k}" for k in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)
    return root


def write_lists(folder, labels, *, validation=True):
    """Lists of a split of `SMALL`, laid out and named as the published ones."""
    pool, held_out = train_validation_split(labels, validation=20, seed=3)
    drawn = long_tail_split(labels, max_count=10, imbalance=5, seed=4, pool=pool, few_shot_fraction=0.2)
    place = folder / "cifar10_imbSub_with_subsets"
    place.mkdir(parents=True)
    for code, indices in (("D_i", drawn.long_tail), ("D_b", drawn.balanced), ("S_b", drawn.few_shot)):
        np.save(place / f"split1_{code}.npy", indices[::-1])
    if validation:
        (folder / "cifar10").mkdir()
        np.save(folder / "cifar10" / "trainIdxList.npy", pool)
        np.save(folder / "cifar10" / "valIdxList.npy", held_out)
    return drawn, pool, held_out


@pytest.fixture
def small(tmp_path):
    """A parquet copy, and lists that fit it."""
    copy = write_parquet(tmp_path / "copy", SMALL_LABELS, np.repeat(np.arange(10), 2))
    return copy, tmp_path / "lists", write_lists(tmp_path / "lists", SMALL_LABELS)


def test_published_sizes_follow_from_the_profiles():
    for name in ("cifar10_lt", "cifar100_lt", "imagenet_lt", "imagenet100_lt"):
        facts = PUBLISHED[name]
        total = facts.long_tail if facts.profile == "pareto" else None
        counts = long_tail_counts(facts.classes, facts.max_count, facts.imbalance, profile=facts.profile, total=total)
        assert counts.sum() == facts.long_tail
        assert counts.sum() // facts.classes * facts.classes == facts.balanced
    facts = PUBLISHED["imagenet_lt_exp"]
    assert long_tail_counts(1000, 1280, 256).sum() == 229_853  # the paper says 229.7K
    assert abs(229_853 - facts.long_tail) <= facts.slack
    assert [PUBLISHED[name].long_tail for name in ("cifar10", "cifar100")] == [45_000, 45_000]


@pytest.mark.parametrize(("name", "classes", "expected"), [
    ("cifar10_lt", 10, (11_165, 11_160, 450, 45_000, 5_000, 50)),
    ("cifar10", 10, (45_000, 45_000, 450, 45_000, 5_000, 50)),
    ("cifar100_lt", 100, (9_754, 9_700, 400, 45_000, 5_000, 500)),
    ("cifar100", 100, (45_000, 45_000, 400, 45_000, 5_000, 500)),
])  # fmt: skip
def test_cifar_drawn_has_the_published_sizes(tmp_path, name, classes, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), 50_000 // classes))
    split = paper_split(name, write_parquet(tmp_path / "copy", labels, np.repeat(np.arange(classes), 5)), split=2)
    assert sizes(split) == expected
    assert split.rule == "thirds"
    assert split.counts.tolist() == per_class(split.long_tail, classes)
    for part in PARTS:
        assert isinstance(getattr(split, part), Source)
        if part != "long_tail":
            assert len(set(per_class(getattr(split, part), classes))) == 1
    assert set(split.few_shot.ids) <= set(split.long_tail.ids) <= set(split.full.ids)
    assert set(split.balanced.ids) <= set(split.full.ids)
    assert disjoint(split.full, split.validation)
    if name in {"cifar10", "cifar100"}:
        assert len(set(split.counts.tolist())) == 1
        assert list(split.long_tail.ids) == list(split.balanced.ids) == list(split.full.ids)
    else:
        assert sorted(split.counts, reverse=True) == long_tail_counts(classes, 45_000 // classes, 100).tolist()


def test_splits_differ_and_share_what_they_are_judged_with(small):
    splits = [paper_split("cifar10_lt", small[0], split=number, published=SMALL) for number in (1, 2, 1)]
    assert list(splits[0].long_tail.ids) == list(splits[2].long_tail.ids)
    assert list(splits[0].long_tail.ids) != list(splits[1].long_tail.ids)
    assert list(splits[0].validation.ids) == list(splits[1].validation.ids)
    assert (splits[0].long_tail.name, splits[1].balanced.name) == ("cifar10-lt-1", "cifar10-lt-2-balanced")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(max_count=st.integers(1, 10), imbalance=st.floats(1, 10))
def test_cifar_of_another_size(small, max_count, imbalance):
    if imbalance > max_count:
        with pytest.raises(InputError, match="lower imbalance"):
            paper_split("cifar10_lt", small[0], max_count=max_count, imbalance=imbalance, published=SMALL)
        return
    split = paper_split("cifar10_lt", small[0], max_count=max_count, imbalance=imbalance, published=SMALL)
    rarest = split.counts.min()
    assert split.counts.max() == max_count
    assert per_class(split.few_shot, 10) == [min(2, rarest)] * 10
    assert set(split.few_shot.ids) <= set(split.long_tail.ids)
    assert sizes(split)[3:] == (100, 20, 20)


def test_full_sets_of_another_size(small):
    split = paper_split("cifar10", small[0], max_count=4, published=replace(SMALL, imbalance=1))
    assert split.counts.tolist() == [4] * 10
    assert list(split.long_tail.ids) == list(split.balanced.ids)
    assert sizes(split) == (40, 40, 20, 100, 20, 20)


def test_cifar10_parquet_copy(cifar10_dir):
    split = paper_split("cifar10_lt", cifar10_dir)
    assert sizes(split) == (11_165, 11_160, 450, 45_000, 5_000, 10_000)
    assert split.long_tail.image(0).shape == (32, 32, 3)
    # The same draw as `--subset.kind long-tail --subset.holdout 5000` makes.
    train = open_source(cifar10_dir, split="train")
    pool, _ = train_validation_split(train.labels, validation=5000, seed=0)
    drawn = long_tail_split(train.labels, max_count=4500, imbalance=100, seed=1, pool=pool)
    assert [train.ids[index] for index in drawn.long_tail] == list(split.long_tail.ids)


@pytest.mark.parametrize("layout", ["parquet", "torchvision"])
@pytest.mark.parametrize("place", ["", "cifar10_imbSub_with_subsets"])
def test_cifar_by_lists(small, tmp_path, monkeypatch, layout, place):
    copy, lists, (drawn, pool, held_out) = small
    if layout == "torchvision":
        copy = write_torchvision(tmp_path / "vision", SMALL_LABELS, monkeypatch)
    split = paper_split("cifar10_lt", copy, lists=lists / place, published=SMALL)
    expected = (drawn.long_tail[::-1], drawn.balanced[::-1], drawn.few_shot[::-1], pool, held_out)
    for part, indices in zip(PARTS, expected, strict=False):
        assert list(getattr(split, part).ids) == [f"train/{index:05d}" for index in indices]
    assert split.counts.tolist() == drawn.counts.tolist()
    if layout == "torchvision":
        assert split.few_shot.image(3)[0, 0, 0] == drawn.few_shot[::-1][3]
        assert split.test.classes[4] == "class4"


def test_cifar_validation_is_drawn_where_it_is_not_published(small, tmp_path):
    write_lists(tmp_path / "short", SMALL_LABELS, validation=False)
    split = paper_split("cifar10_lt", small[0], lists=tmp_path / "short", published=SMALL)
    assert per_class(split.validation, 10) == [2] * 10
    assert disjoint(split.validation, split.full)
    for source in (split.long_tail, split.balanced, split.few_shot):
        assert disjoint(split.validation, source)
    assert sizes(split) == (46, 40, 20, 100, 20, 20)


def test_full_sets_by_lists(small):
    copy, lists, (drawn, pool, _) = small
    split = paper_split("cifar10", copy, lists=lists, published=replace(SMALL, imbalance=1))
    assert list(split.long_tail.ids) == list(split.balanced.ids) == [f"train/{index:05d}" for index in pool]
    assert split.counts.tolist() == [10] * 10
    assert sorted(split.few_shot.ids) == [f"train/{index:05d}" for index in drawn.few_shot]


def test_a_copy_in_another_order_does_not_fit_the_lists(small, tmp_path):
    copy = write_parquet(tmp_path / "sorted", np.sort(SMALL_LABELS), np.repeat(np.arange(10), 2))
    message = r"split1_D_i.npy: refers to the original order of the images, and sorted-train has another order: its "
    with pytest.raises(InputError, match=message):
        paper_split("cifar10_lt", copy, lists=small[1], published=SMALL)
    with pytest.raises(InputError, match=r"split1_S_b.npy: .* not 2, 2, 2"):
        paper_split("cifar10", copy, lists=small[1], published=replace(SMALL, imbalance=1))


def test_real_parquet_copy_is_refused_with_the_published_lists(shared_data, cifar10_dir):
    with pytest.raises(InputError, match=r"cifar10-train has another order: .* not 4500, 2697, 1617, … as published"):
        paper_split("cifar10_lt", cifar10_dir, lists=shared_data / "splits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar11"}, "cifar11 is not a data set of the paper; choose from cifar10_lt, "),
        ({"split": 0}, "split is 0"),
        ({"split": 2, "lists": "lists"}, r"3 of the 3 lists of this split are missing \(split2_D_i.npy, split2"),
        ({"lists": "nowhere"}, "nowhere is not a folder"),
        ({"lists": "lists", "max_count": 5}, "leave out max_count and imbalance"),
        ({"name": "cifar10", "imbalance": 10, "published": replace(SMALL, imbalance=1)}, "choose cifar10_lt"),
        ({"name": "cifar100_lt", "published": None}, "has 10 classes, numbered 0 to 9; cifar100_lt has 100"),
        (
            {"lists": "lists", "published": replace(SMALL, long_tail=47)},
            "lists 46 images and the published list has 47",
        ),
        ({"max_count": 0}, "max_count is 0"),
    ],
)
def test_cifar_errors_name_the_mend(small, monkeypatch, options, message):
    monkeypatch.chdir(small[1].parent)
    with pytest.raises(InputError, match=message):
        paper_split(**{"name": "cifar10_lt", "data": small[0], "published": SMALL, **options})


def test_validation_list_that_overlaps_is_refused(small):
    copy, lists, (_, pool, held_out) = small
    np.save(lists / "cifar10" / "valIdxList.npy", np.concatenate([held_out[:-3], pool[:3]]))
    with pytest.raises(InputError, match=r"valIdxList.npy: shares 3 images with the training lists"):
        paper_split("cifar10_lt", copy, lists=lists, published=SMALL)


def test_copies_without_labels_or_without_data_are_refused(tmp_path):
    write_parquet(tmp_path / "copy", [None] * 4, [None] * 4)
    with pytest.raises(InputError, match="copy-train: has 1 classes, numbered -1 to -1; cifar10_lt has 10"):
        paper_split("cifar10_lt", tmp_path / "copy")
    with pytest.raises(InputError, match="does not hold the files of cifar100"):
        paper_split("cifar100_lt", tmp_path / "nothing")


# --- The published CIFAR lists ---------------------------------------------------------------------------------------

CIFAR_LISTS = [
    # The labels with which CIFAR's training sets begin.
    ("cifar10_lt", "cifar10_imbSub_with_subsets/split1", [6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 2, 9, 9, 9, 3, 2, 6]),
    ("cifar100_lt", "cifar100_imbSub_with_subsets/cifar100_split1", [19, 29, 0, 11, 1, 86, 90, 28, 23, 31, 39, 96, 82]),
]


def labels_by_lists(splits: Path, prefix: str, classes: int) -> np.ndarray:
    """The labels of the listed images, -1 elsewhere.

    The lists go through the classes in turn: equally long blocks in D_b and S_b, and in D_i blocks that begin with the
    same images.
    """
    lists = {code: load_index_list(splits / f"{prefix}_{code}.npy", size=50_000) for code in ("D_i", "D_b", "S_b")}
    few_shot, balanced = lists["S_b"].reshape(classes, -1), lists["D_b"].reshape(classes, -1)
    starts = [int(np.flatnonzero(lists["D_i"] == block[0])[0]) for block in few_shot]
    labels = np.full(50_000, -1)
    for number, block in enumerate(np.split(lists["D_i"], starts[1:])):
        np.testing.assert_array_equal(block[: few_shot.shape[1]], few_shot[number])
        for indices in (block, balanced[number]):
            assert np.isin(labels[indices], [-1, number]).all()
            labels[indices] = number
    return labels


@pytest.mark.parametrize(("name", "prefix", "beginning"), CIFAR_LISTS)
def test_published_cifar_lists(shared_data, tmp_path, name, prefix, beginning):
    facts, splits = PUBLISHED[name], shared_data / "splits"
    labels = labels_by_lists(splits, prefix, facts.classes)
    listed = labels >= 0

    # They count in the original order, and their blocks in class numbers: where a list names an image from the
    # beginning of the set, its block is the label that this image has.
    known = np.flatnonzero(listed[: len(beginning)])
    assert len(known) >= 4
    assert labels[known].tolist() == [beginning[index] for index in known]

    # Images that no list of this split names get labels that fill up the classes.
    missing = 50_000 // facts.classes - np.bincount(labels[listed], minlength=facts.classes)
    labels[~listed] = np.random.default_rng(0).permutation(np.repeat(np.arange(facts.classes), missing))
    copy = write_parquet(tmp_path / "original", labels, np.repeat(np.arange(facts.classes), 2))
    split = paper_split(name, copy, lists=splits)
    totals = {"cifar10_lt": (11_165, 11_160, 450), "cifar100_lt": (9_754, 9_700, 400)}[name]
    assert sizes(split)[:5] == (*totals, 45_000, 5_000)
    assert sorted(split.counts, reverse=True) == long_tail_counts(facts.classes, facts.max_count, 100).tolist()
    for source in (split.balanced, split.few_shot):
        assert len(set(per_class(source, facts.classes))) == 1
    assert set(split.few_shot.ids) <= set(split.long_tail.ids) <= set(split.full.ids)
    assert disjoint(split.full, split.validation)
    with pytest.raises(InputError, match=r"split2_D_i\.npy"):
        paper_split(name, copy, lists=splits, split=2)


# --- ImageNet --------------------------------------------------------------------------------------------------------

# Four classes of 20 training and 3 test images.
FOLDERS = Published(
    classes=4,
    max_count=12,
    imbalance=6,
    profile="pareto",
    long_tail=22,
    balanced=20,
    few_shot=12,
    validation=8,
    test=12,
)
WORDS = ("n07", "n02", "n05", "n01")


@pytest.fixture
def imagenet(tmp_path):
    """A folder of tiny JPEGs in ImageNet's layout, n05 smaller than the other classes, and lists that fit it."""
    root, lists = tmp_path / "imagenet", tmp_path / "splits" / "imagenet-100"
    lists.mkdir(parents=True)
    for part, count in (("train", 20), ("val", 3)):
        for word in WORDS:
            (root / part / word).mkdir(parents=True)
            for number in range(10 if (part, word) == ("train", "n05") else count):
                Image.new("RGB", (2, 2)).save(root / part / word / f"{word}_{number}.JPEG")
    (root / "train" / "n07" / "notes.txt").touch()
    (root / "train" / "n99").mkdir()
    of_class = {
        "imageNet_100_LT_train": ("train", [range(12), range(2), range(5), range(3)]),
        "imageNet_100_BL_train": ("train", [range(5)] * 4),
        "imageNet_100_sub_balance_train_0.01": ("train", [range(5, 8)] * 4),
        "ImageNet_100_val": ("train", [range(18, 20), range(18, 20), range(8, 10), range(18, 20)]),
        "ImageNet_100_test": ("val", [range(3)] * 4),
    }
    for file, (part, numbers) in of_class.items():
        lines = [f"{part}/{w}/{w}_{n}.JPEG {c}\n" for c, w in enumerate(WORDS) for n in numbers[c]]
        (lists / f"{file}.txt").write_text("".join(lines))
    return root, lists


def test_imagenet_by_lists(imagenet):
    root, lists = imagenet
    split = paper_split("imagenet100_lt", root, lists=lists.parent, published=FOLDERS)
    assert sizes(split) == (22, 20, 12, 62, 8, 12)
    assert split.counts.tolist() == per_class(split.long_tail, 4) == [12, 2, 5, 3]
    assert split.rule == "shots"
    assert split.long_tail.ids[0] == "train/n07/n07_0.JPEG"
    assert split.long_tail.file(0) == root / "train/n07/n07_0.JPEG"
    assert split.test.image(11).shape == (2, 2, 3)
    assert disjoint(split.full, split.validation)
    assert set(split.long_tail.ids) <= set(split.full.ids)
    for part in PARTS:
        source = getattr(split, part)
        assert isinstance(source, Source)
        assert source.classes == WORDS
        assert [WORDS[label] for label in source.labels] == [image_id.split("/")[1] for image_id in source.ids]


def test_missing_images_are_counted(imagenet):
    root, lists = imagenet
    for number in range(4):
        (root / "train" / "n07" / f"n07_{number}.JPEG").unlink()
    # 4 of the images are in two lists, and count once.
    message = r"4 of the 56 listed images are missing \(train/n07/n07_0.JPEG, .*n07_2.JPEG, …\); give the folder"
    with pytest.raises(InputError, match=message):
        paper_split("imagenet100_lt", root, lists=lists, published=FOLDERS)


def rewrite(file, old, new, count=-1):
    file.write_text(file.read_text().replace(old, new, count))


def test_lists_that_do_not_belong_together(imagenet):
    root, lists = imagenet
    rewrite(lists / "ImageNet_100_val.txt", "n02/n02_18.JPEG 1", "n02/n02_18.JPEG 3")
    rewrite(lists / "ImageNet_100_val.txt", "n02/n02_19.JPEG 1", "n02/n02_19.JPEG 9")
    message = (
        r"ImageNet_100_val.txt: 2 of 8 images are of classes that imageNet_100_LT_train.txt does not have by this "
    )
    with pytest.raises(InputError, match=message):
        paper_split("imagenet100_lt", root, lists=lists, published=FOLDERS)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("imageNet_100_LT_train", "train/n01/n01_0.JPEG 3\n", "", "lists 21 images and the published list has 22"),
        ("imageNet_100_LT_train", "n05_0.JPEG 2", "n05_0.JPEG 4", "lists 5 classes, numbered 0 to 4; the published"),
        ("imageNet_100_LT_train", "n07_11.JPEG 0", "n07_11.JPEG", "1 of 22 lines have no class number, as 'train/n07"),
        ("imageNet_100_BL_train", "n07/n07_0.JPEG 0", "n02/n02_9.JPEG 1", "have 6 to 4 images, and the published list"),
        (
            "imageNet_100_LT_train",
            "n07/n07_0.JPEG 0",
            "n05/n05_9.JPEG 2",
            "have 11 to 2 images, and the published list",
        ),
        ("ImageNet_100_test", "val/n07/n07_1.JPEG", "val/n07/n07_0.JPEG", "has two images named 'val/n07/n07_0.JPEG'"),
    ],
)
def test_lists_are_checked(imagenet, file, old, new, message):
    root, lists = imagenet
    rewrite(lists / f"{file}.txt", old, new)
    with pytest.raises(InputError, match=message) as caught:
        paper_split("imagenet100_lt", root, lists=lists, published=FOLDERS)
    assert f"{file}.txt" in str(caught.value)


def test_imagenet_lists_hold_one_split_and_all_of_it(imagenet):
    root, lists = imagenet
    with pytest.raises(InputError, match="split is 2, and the lists of imagenet100_lt hold one"):
        paper_split("imagenet100_lt", root, lists=lists, split=2)
    with pytest.raises(InputError, match=r"5 of the 5 lists .*ImageNet_LT_train.txt.*give the folder ImageNet_LT/"):
        paper_split("imagenet_lt", root, lists=lists)


def test_imagenet_drawn(imagenet):
    root, _ = imagenet
    (root / "train" / "n99").rmdir()
    splits = [paper_split("imagenet100_lt", root, split=number, published=FOLDERS) for number in (1, 2, 3, 4, 5)]
    for split in splits:
        assert sizes(split) == (22, 20, 12, 62, 8, 12)
        assert sorted(split.counts, reverse=True) == long_tail_counts(4, 12, 6, profile="pareto", total=22).tolist()
        assert split.counts[2] < 12  # n05 has 10 images: another class leads, whatever the random order says
        assert split.counts.tolist() == per_class(split.long_tail, 4)
        assert split.long_tail.classes == ("n01", "n02", "n05", "n07")
        assert per_class(split.few_shot, 4) == [3] * 4  # although the rarest class of D_i has 2
        assert disjoint(split.full, split.validation)
        assert set(split.few_shot.ids) | set(split.long_tail.ids) | set(split.balanced.ids) <= set(split.full.ids)
    assert len({tuple(split.long_tail.ids) for split in splits}) == 5
    smaller = paper_split("imagenet100_lt", root, max_count=8, imbalance=4, published=FOLDERS)
    assert (smaller.counts.max(), smaller.counts.min()) == (8, 2)


def test_imagenet_folders_are_checked(imagenet, tmp_path):
    root, _ = imagenet
    with pytest.raises(InputError, match=r"train/ and val/ differ in 1 classes \(n99\)"):
        paper_split("imagenet100_lt", root, published=FOLDERS)
    (root / "train" / "n99").rmdir()
    with pytest.raises(InputError, match="imagenet-train: has 4 classes, numbered 0 to 3; imagenet100_lt has 100"):
        paper_split("imagenet100_lt", root)
    with pytest.raises(InputError, match="train is not a folder"):
        paper_split("imagenet_lt", tmp_path)


def test_published_imagenet100_lists(shared_data, tmp_path):
    """Sizes, classes and profiles of the real lists hold; then all images are missing from an empty folder."""
    (tmp_path / "train").mkdir()
    lists = shared_data / "splits" / "imagenet-100"
    distinct = {line.split()[0] for file in lists.glob("*.txt") for line in file.read_text().splitlines()}
    message = rf"{len(distinct):,} of the {len(distinct):,} listed images are missing \(train/n02869837/n02869837"
    with pytest.raises(InputError, match=message):
        paper_split("imagenet100_lt", tmp_path, lists=shared_data / "splits")
    for part, file in (("long_tail", "LT_train"), ("balanced", "BL_train"), ("few_shot", "sub_balance_train_0.01")):
        lines = (lists / f"imageNet_100_{file}.txt").read_text().splitlines()
        assert len(lines) == {"long_tail": 12_205, "balanced": 12_200, "few_shot": 1_200}[part]


def test_groups_of_the_published_imagenet100_list(shared_data):
    text = (shared_data / "splits" / "imagenet-100" / "imageNet_100_LT_train.txt").read_text()
    counts = np.bincount([int(line.split()[1]) for line in text.splitlines()])
    assert [len(ids) for ids in class_groups(counts, rule="shots").values()] == [39, 48, 13]
