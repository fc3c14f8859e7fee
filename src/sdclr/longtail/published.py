"""The data sets of the paper: sub-samplings from the published lists, or drawn with the same class profiles.

*Self-Damaging Contrastive Learning* (Jiang et al., ICML 2021), section 4.1 and the lists published with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sdclr.data.drawing import train_validation_split
from sdclr.data.parquet import parquet_files
from sdclr.data.sources import Source, SubsetSource, cifar, open_source
from sdclr.errors import InputError
from sdclr.longtail.config import DatasetName, GroupRule
from sdclr.longtail.index_lists import (
    ListedSource,
    PathList,
    agreed_classes,
    check_list_size,
    find_list,
    find_lists,
    list_class_folders,
    load_index_list,
    missing_files,
    read_path_list,
    some_of,
)
from sdclr.longtail.splits import Profile, long_tail_counts, long_tail_split

FEW_SHOT_SEED = 1000
"""Offset: this plus the split is the seed of the ImageNet few-shot sets, which are drawn apart from the long tail."""


@dataclass(frozen=True, kw_only=True)
class PaperSplit:
    """One sub-sampling of a data set of the paper, with its evaluation sets."""

    name: DatasetName
    split: int
    long_tail: Source
    """D_i: the training images. For the full sets the whole training part, as for `balanced`."""
    balanced: Source
    """D_b: the same number of images, equally many of each class."""
    few_shot: Source
    """S_b: 1 % of the full set, equally many of each class, labeled."""
    full: Source
    """The labeled full training part, without validation images, for linear separability."""
    validation: Source
    """Labeled images of the official training set that are in none of the sets above."""
    test: Source
    """The official test images (CIFAR) or validation images (ImageNet)."""
    counts: NDArray[np.int64]
    """Images of each class in D_i, `(K,)`."""
    rule: GroupRule
    """How its classes are grouped: "thirds" (CIFAR) or "shots" (ImageNet)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Sizes of a data set in the paper and its lists; lists with other sizes raise an error."""

    classes: int
    max_count: int
    """Images of the most frequent class of D_i."""
    imbalance: float
    """Most frequent class over the rarest."""
    long_tail: int
    """Images of D_i."""
    balanced: int
    few_shot: int
    validation: int
    test: int
    profile: Profile = "exponential"
    slack: int = 0
    """Allowed difference in the sizes of D_i and D_b: for ImageNet-LT-exp the paper states only 229.7K."""


_CIFAR10 = Published(
    classes=10,
    max_count=4500,
    imbalance=100,
    long_tail=11_165,
    balanced=11_160,
    few_shot=450,
    validation=5_000,
    test=10_000,
)
_CIFAR100 = replace(_CIFAR10, classes=100, max_count=450, long_tail=9_754, balanced=9_700, few_shot=400)
_IMAGENET = Published(
    classes=1000,
    max_count=1280,
    imbalance=256,
    profile="pareto",
    long_tail=115_846,
    balanced=115_000,
    few_shot=12_000,
    validation=20_000,
    test=50_000,
)
PUBLISHED: Mapping[DatasetName, Published] = MappingProxyType(
    {
        "cifar10_lt": _CIFAR10,
        "cifar100_lt": _CIFAR100,
        "cifar10": replace(_CIFAR10, imbalance=1, long_tail=45_000, balanced=45_000),
        "cifar100": replace(_CIFAR100, imbalance=1, long_tail=45_000, balanced=45_000),
        "imagenet_lt": _IMAGENET,
        "imagenet_lt_exp": replace(_IMAGENET, profile="exponential", long_tail=229_700, balanced=229_000, slack=1000),
        "imagenet100_lt": replace(
            _IMAGENET,
            classes=100,
            imbalance=1280 / 6,
            long_tail=12_205,
            balanced=12_200,
            few_shot=1_200,
            validation=2_000,
            test=5_000,
        ),
    }
)
"""Sizes of the paper's data sets. CIFAR follows its published lists, with 5,000 validation images."""

_IMAGENET_LT_LISTS = {
    "long_tail": "ImageNet_LT_train.txt",
    "balanced": "imageNet_BL_train.txt",
    "few_shot": "imageNet_sub_balance_train_0.01.txt",
    "validation": "ImageNet_LT_val.txt",
    "test": "ImageNet_LT_test.txt",
}
_IMAGENET_LT_EXP_LISTS = {
    **_IMAGENET_LT_LISTS,
    "long_tail": "imageNet_LT_exp_train.txt",
    "balanced": "imageNet_BL_exp_train.txt",
}
_IMAGENET100_LT_LISTS = {
    "long_tail": "imageNet_100_LT_train.txt",
    "balanced": "imageNet_100_BL_train.txt",
    "few_shot": "imageNet_100_sub_balance_train_0.01.txt",
    "validation": "ImageNet_100_val.txt",
    "test": "ImageNet_100_test.txt",
}
_IMAGENET_LISTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "imagenet_lt": ("ImageNet_LT", _IMAGENET_LT_LISTS),
    "imagenet_lt_exp": ("ImageNet_LT", _IMAGENET_LT_EXP_LISTS),
    "imagenet100_lt": ("imagenet-100", _IMAGENET100_LT_LISTS),
}

_Parts = dict[str, NDArray[np.int64]]


def paper_split(
    name: DatasetName,
    data: Path | str,
    *,
    split: int = 1,
    lists: Path | str | None = None,
    max_count: int | None = None,
    imbalance: float | None = None,
    published: Published | None = None,
) -> PaperSplit:
    """Open one sub-sampling of a data set of the paper, from the published lists or drawn with the same class profile.

    With `lists`, CIFAR index lists refer to the original order, which torchvision's copy has; a copy in another order
    raises an error. No training and validation lists are published for CIFAR-100: its validation images are drawn with
    a fixed seed, equally many of each class, from the images that no list of the split contains. The ImageNet lists
    hold one sub-sampling; all other images in their classes' `train/` folders belong to the full training set.

    Without lists, the validation images are drawn first (equally many of each class, the same for every split). The
    long tail and its control are drawn from the rest, with the seed `split`. The exponential profile over 1,000 classes
    has 229,853 images, and the paper says 229.7K; all other sizes are the published ones. An ImageNet class that is too
    small for its rank passes the rank to the next class in the random order. CIFAR's few-shot set is inside D_i, as
    published. If the rarest class has too few images for it, it takes as many images of every class as the rarest class
    has. ImageNet's few-shot set is drawn from the whole training part, as published.

    Args:
        name: The data set; "cifar10" and "cifar100" are the full balanced sets (Table 6).
        data: For CIFAR a folder of torchvision's copy or of Parquet files with the splits train and test. For ImageNet
            a folder with `train/` and `val/`, each with one folder per class.
        split: Number of the sub-sampling; the paper's are 1 to 5 for CIFAR, 1 for ImageNet.
        lists: The folder of published lists, or a folder that contains it under its published name.
        max_count: Number of images of the most frequent class (of every class for the full sets), for a smaller set
            than the paper's. Drawn sets only; the total of the Pareto profile then follows from its shape.
        imbalance: Ratio of the most frequent to the rarest class, instead of the paper's. Drawn sets only.
        published: Expected sizes, for other data with lists of the same form.

    Returns:
        The sub-sampling.

    Raises:
        InputError: The data set or split is unknown, files are missing, or data and lists differ from the published.

    Examples:
        >>> split = sdclr.paper_split("cifar10_lt", "cifar10", split=1)
        >>> len(split.long_tail), len(split.few_shot), len(split.test)
        (11165, 450, 10000)
        >>> np.sort(split.counts)
        array([  45,   75,  125,  208,  348,  581,  969, 1617, 2697, 4500])
    """
    if name not in get_args(DatasetName):
        raise InputError(f"{name} is not a data set of the paper; choose from {', '.join(get_args(DatasetName))}")
    if split < 1:
        raise InputError(f"split is {split}; give a number from 1")
    facts = published or PUBLISHED[name]
    own = max_count is not None or imbalance is not None
    if own and lists is not None:
        raise InputError(f"{lists}: published lists have fixed sizes; leave out max_count and imbalance, or the lists")
    if imbalance not in {None, 1} and facts.imbalance == 1:
        raise InputError(f"{name}: is the full balanced set; leave out imbalance, or choose {name}_lt")
    root, listed = Path(data).expanduser(), None if lists is None else Path(lists).expanduser()
    if listed is not None and not listed.is_dir():
        raise InputError(f"{lists} is not a folder; give the folder of published lists")
    small = name.startswith("cifar")
    if listed is not None and not small:
        return _imagenet_by_lists(name, facts, root, listed, split)
    train, test = _open_cifar(name, root) if small else _open_imagenet(root)
    labels = _labels(train, facts, name)
    _labels(test, facts, name)
    if listed is not None:
        parts = _cifar_by_lists(name, facts, train, listed, split)
    else:
        most = facts.max_count if max_count is None else max_count
        tail = replace(facts, max_count=most, imbalance=facts.imbalance if imbalance is None else imbalance)
        total = facts.long_tail if facts.profile == "pareto" and not own else None
        parts = _draw(labels, tail, split, total=total, few_shot_inside=small)
    label = name.replace("_", "-")
    return PaperSplit(
        name=name,
        split=split,
        long_tail=SubsetSource(train, parts["long_tail"], name=f"{label}-{split}"),
        balanced=SubsetSource(train, parts["balanced"], name=f"{label}-{split}-balanced"),
        few_shot=SubsetSource(train, parts["few_shot"], name=f"{label}-{split}-few-shot"),
        full=SubsetSource(train, parts["full"], name=f"{label}-full"),
        validation=SubsetSource(train, parts["validation"], name=f"{label}-validation"),
        test=test,
        counts=np.bincount(labels[parts["long_tail"]], minlength=facts.classes),
        rule="thirds" if small else "shots",
    )


def _labels(source: Source, facts: Published, name: str) -> NDArray[np.int64]:
    if source.labels is None:
        raise InputError(f"{source.name}: has no labels, which {name} needs; give a labeled copy")
    found = np.unique(source.labels)
    if found.tolist() != list(range(facts.classes)):
        raise InputError(
            f"{source.name}: has {len(found)} classes, numbered {found[0]} to {found[-1]}; {name} has {facts.classes}, "
            f"numbered 0 to {facts.classes - 1}: give another copy, or the published lists that choose the classes"
        )
    return source.labels


def _draw(
    labels: NDArray[np.int64], facts: Published, split: int, *, total: int | None, few_shot_inside: bool
) -> _Parts:
    pool, validation = train_validation_split(labels, validation=facts.validation, seed=0)
    by_rank = long_tail_counts(facts.classes, facts.max_count, facts.imbalance, profile=facts.profile, total=total)
    largest_few_shot = by_rank[-1] if few_shot_inside else np.bincount(labels[pool]).min()
    shots = min(facts.few_shot // facts.classes, int(largest_few_shot))
    drawn = long_tail_split(
        labels,
        max_count=facts.max_count,
        imbalance=facts.imbalance,
        seed=split,
        pool=pool,
        few_shot_fraction=shots * facts.classes / len(pool) if few_shot_inside else 0,
        profile=facts.profile,
        total=total,
        fit_order=True,
    )
    few_shot = drawn.few_shot if few_shot_inside else _equal(labels, pool, shots, FEW_SHOT_SEED + split)
    parts = {"long_tail": drawn.long_tail, "balanced": drawn.balanced, "few_shot": few_shot}
    return {**parts, "full": pool, "validation": validation}


def _equal(labels: NDArray[np.int64], pool: NDArray[np.int64], each: int, seed: int) -> NDArray[np.int64]:
    """Draw `each` images of every class, sorted."""
    return long_tail_split(labels, max_count=each, imbalance=1, seed=seed, pool=pool, few_shot_fraction=0).long_tail


def _open_cifar(name: str, root: Path) -> tuple[Source, Source]:
    dataset: Literal["cifar10", "cifar100"] = "cifar100" if name.startswith("cifar100") else "cifar10"
    if root.is_dir() and parquet_files(root):
        return open_source(root, split="train"), open_source(root, split="test")
    return cifar(root, dataset, "train"), cifar(root, dataset, "test")


def _cifar_by_lists(name: str, facts: Published, train: Source, lists: Path, split: int) -> _Parts:
    labels = _labels(train, facts, name)
    dataset = name.removesuffix("_lt")
    start = "" if dataset == "cifar10" else f"{dataset}_"
    codes = {"few_shot": "S_b"} if name == dataset else {"long_tail": "D_i", "balanced": "D_b", "few_shot": "S_b"}
    files = {part: f"{start}split{split}_{code}.npy" for part, code in codes.items()}
    paths = find_lists(lists, f"{dataset}_imbSub_with_subsets", files)
    parts = {part: load_index_list(path, size=len(labels)) for part, path in paths.items()}
    for part, path in paths.items():
        check_list_size(path, len(parts[part]), getattr(facts, part))
        profile = np.full(facts.classes, len(parts[part]) // facts.classes)
        if part == "long_tail":
            profile = long_tail_counts(facts.classes, facts.max_count, facts.imbalance, profile=facts.profile)
        counts = np.sort(np.bincount(labels[parts[part]], minlength=facts.classes))[::-1]
        if (counts != profile).any():
            raise InputError(
                f"{path}: refers to the original order of the images, and {train.name} has another order: its classes "
                f"would have {some_of(counts.astype(str))} images, not {some_of(profile.astype(str))} as published; "
                "give torchvision's copy, or draw the split without lists"
            )
    listed = np.unique(np.concatenate(list(parts.values())))
    parts["full"], parts["validation"] = _cifar_validation(dataset, facts, labels, lists, listed)
    return {"long_tail": parts["full"], "balanced": parts["full"], **parts}


def _cifar_validation(
    dataset: str, facts: Published, labels: NDArray[np.int64], lists: Path, listed: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The full training part and the validation part, as published or drawn from the images that no list contains."""
    everything = np.arange(len(labels))
    paths = [find_list(lists, dataset, file) for file in ("trainIdxList.npy", "valIdxList.npy")]
    if paths[0] is None or paths[1] is None:
        outside = np.setdiff1d(everything, listed)
        validation = _equal(labels, outside, facts.validation // facts.classes, seed=0)
        return np.setdiff1d(everything, validation), validation
    train, validation = (load_index_list(path, size=len(labels)) for path in paths if path is not None)
    check_list_size(paths[0], len(train), len(labels) - facts.validation)
    check_list_size(paths[1], len(validation), facts.validation)
    if shared := len(np.intersect1d(validation, np.union1d(train, listed))):
        raise InputError(f"{paths[1]}: shares {shared} images with the training lists; fetch the lists again")
    return train, validation


def _open_imagenet(root: Path) -> tuple[Source, Source]:
    folders = list_class_folders(root, "train")
    classes = list(folders)
    test = list_class_folders(root, "val")
    unknown = sorted(test.keys() ^ folders.keys())
    if unknown:
        raise InputError(
            f"{root}: train/ and val/ differ in {len(unknown)} classes ({some_of(unknown)}); give both the same class "
            "folders"
        )
    name = root.absolute().name
    return _of_folders(root, folders, classes, f"{name}-train"), _of_folders(root, test, classes, f"{name}-val")


def _of_folders(root: Path, folders: Mapping[str, list[str]], classes: list[str], name: str) -> ListedSource:
    ids = [image_id for folder in classes for image_id in folders[folder]]
    labels = np.repeat(np.arange(len(classes)), [len(folders[folder]) for folder in classes])
    return ListedSource(root, ids, labels, classes, name)


def _imagenet_by_lists(name: DatasetName, facts: Published, root: Path, lists: Path, split: int) -> PaperSplit:
    if split != 1:
        raise InputError(f"split is {split}, and the lists of {name} hold one sub-sampling; give 1, or leave out lists")
    paths = find_lists(lists, *_IMAGENET_LISTS[name])
    listed = {part: read_path_list(path) for part, path in paths.items()}
    for part, path in paths.items():
        slack = facts.slack if part in {"long_tail", "balanced"} else 0
        check_list_size(path, len(listed[part][0]), getattr(facts, part), slack)
    classes = agreed_classes({paths[part]: of for part, of in listed.items()}, facts.classes)
    _check_profile(paths, listed, facts)
    everything = [image_id for ids, _ in listed.values() for image_id in ids]
    if missing := missing_files(root, everything):
        raise InputError(
            f"{root}: {len(missing):,} of the {len(set(everything)):,} listed images are missing ({some_of(missing)}); "
            "give the folder that holds train/ and val/"
        )
    label = name.replace("_", "-")
    sources = {
        part: ListedSource(root, ids, labels, classes, f"{label}-{split}-{part.replace('_', '-')}")
        for part, (ids, labels) in listed.items()
    }
    held_out = set(listed["validation"][0])
    folders = list_class_folders(root, "train", classes)
    kept = {c: [image_id for image_id in members if image_id not in held_out] for c, members in folders.items()}
    return PaperSplit(
        name=name,
        split=split,
        full=_of_folders(root, kept, classes, f"{label}-full"),
        counts=np.bincount(listed["long_tail"][1], minlength=facts.classes),
        rule="shots",
        **sources,
    )


def _check_profile(paths: Mapping[str, Path], listed: Mapping[str, PathList], facts: Published) -> None:
    for part in ("long_tail", "balanced", "few_shot"):
        counts = np.bincount(listed[part][1], minlength=facts.classes)
        ends = (facts.max_count, round(facts.max_count / facts.imbalance))
        if part != "long_tail":
            ends = (len(listed[part][0]) // facts.classes,) * 2
        if (counts.max(), counts.min()) != ends:
            raise InputError(
                f"{paths[part]}: its classes have {counts.max()} to {counts.min()} images, and the published list "
                f"{ends[0]} to {ends[1]}; fetch it again"
            )
