"""Seeded image collections for the comparison of rarity scores, made from real images.

`docs/results/rarity.md` describes families, forms and rare classes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from junk_and_copies import junk_images, near_duplicates
from sdclr.data.sources import ArraySource, Source, digits, open_source
from sdclr.longtail.splits import class_groups, long_tail_counts, long_tail_split

Image = NDArray[np.uint8]

PHOTO_SIDE, SMALL_IMAGE_SIDE = 224, 96
FORMS = ("plain", "junk", "copies")
JUNK_SHARE = 0.02
CIFAR_IMBALANCES = (10, 50, 100)
CIFAR_ORDERS = (1, 2, 3, 4)
CIFAR_MAX_COUNT = 1500
TAIL_IMBALANCES = (20, 50)
TAIL_ORDERS = (1, 2, 3)
TAIL_MAX_COUNT = 290
DIGIT_ORDERS = (1, 2, 3, 4)
TIGHT, MIXED = (0, 6, 4), (8, 9, 1)
"""Digits that are made rare: handwriting varies little for the first three, and more for the others."""


@dataclass(frozen=True)
class Collection:
    """Images with ground truth.

    Attributes:
        name: Unique, such as "cifar-if50-order3+junk".
        family: The family over whose members results are averaged.
        form: "plain", "junk" or "copies".
        images: N images, (H, W, 3) each, of any sizes.
        ids: N unique ids.
        labels: (N,) class ids; -1 for junk.
        rare_classes: Ids of the classes that count as rare.
        copy: (N,) bool, added near-duplicates.
        input_size: Side in pixels of the pretrained encoder's input.
        held_out: Whether it is held out until the score by kinds is written.
    """

    name: str
    family: str
    form: str
    images: Sequence[Image]
    ids: Sequence[str]
    labels: NDArray[np.int64]
    rare_classes: tuple[int, ...]
    copy: NDArray[np.bool_]
    input_size: int
    held_out: bool

    @property
    def rare(self) -> NDArray[np.bool_]:
        """(N,) whether an image belongs to a rare class."""
        return np.isin(self.labels, self.rare_classes)

    @property
    def junk(self) -> NDArray[np.bool_]:
        """(N,) whether an image is junk."""
        return self.labels < 0


class Recipe(NamedTuple):
    """A collection that is not created yet."""

    name: str
    family: str
    held_out: bool
    plain: Callable[[], Collection]


@dataclass(frozen=True)
class Pools:
    """The three sets from which collections are drawn. `clothing` and `cifar` are folders."""

    cifar: Path
    clothing: Path

    @property
    def digits(self) -> Source:
        """All 1,797 digits."""
        return _all_digits()

    def open(self, name: str) -> Source:
        """The training part of a set."""
        return self.digits if name == "digits" else _opened(self.cifar if name == "cifar" else self.clothing)


@cache
def _opened(folder: Path) -> Source:
    return open_source(folder, split="train")


@cache
def _all_digits() -> Source:
    parts = [digits("train"), digits("test")]
    images = np.concatenate([np.stack([part.image(i) for i in range(len(part))]) for part in parts])
    labels = np.concatenate([np.asarray(part.labels) for part in parts])
    ids = [name for part in parts for name in part.ids]
    return ArraySource(images, labels=labels, ids=ids, name="digits", classes=parts[0].classes)


def recipes(pools: Pools) -> Iterator[Recipe]:
    """Recipes of all collections in plain form; the held-out ones come last."""
    yield from sorted(_recipes(pools), key=lambda recipe: recipe.held_out)


def _recipes(pools: Pools) -> Iterator[Recipe]:
    for name, parts in SEPARATED.items():
        yield _recipe(
            f"separated-{name}", "separated", name.endswith("b"), lambda n=name, p=parts: separated(pools, n, p)
        )
    for name, rare in (("tight", TIGHT), ("mixed", MIXED)):
        yield _recipe(f"digits-{name}", "digits", False, lambda n=f"digits-{name}", r=rare: digit_tail(pools, n, r))
    for order in DIGIT_ORDERS:
        name = f"digits-order{order}"
        yield _recipe(name, "digits", order > 2, lambda n=name, o=order: drawn_tail(pools, "digits", n, (100, 50), o))
    yield _recipe("clothing", "clothing", False, lambda: clothing_as_it_is(pools))
    for imbalance in TAIL_IMBALANCES:
        for order in TAIL_ORDERS:
            name = f"clothing-if{imbalance}-order{order}"
            yield _recipe(
                name,
                f"clothing tail, imbalance {imbalance}",
                order > 1,
                lambda n=name, i=imbalance, o=order: drawn_tail(pools, "clothing", n, (TAIL_MAX_COUNT, i), o),
            )
    for imbalance in CIFAR_IMBALANCES:
        for order in CIFAR_ORDERS:
            name = f"cifar-if{imbalance}-order{order}"
            family = f"cifar, imbalance {imbalance}"
            yield _recipe(
                name,
                family,
                order > 2,
                lambda n=name, i=imbalance, o=order: drawn_tail(pools, "cifar", n, (CIFAR_MAX_COUNT, i), o),
            )


class Part(NamedTuple):
    """Images of one set that form one class of a separated collection."""

    pool: str
    class_name: str | None
    """Name of a class; None for all classes."""
    count: int


SEPARATED: dict[str, tuple[Part, ...]] = {
    "photos-a": (Part("clothing", None, 3068), Part("digits", "0", 174), Part("cifar", "frog", 120)),
    "photos-b": (Part("clothing", None, 3068), Part("digits", "3", 174), Part("cifar", "ship", 120)),
    "objects-a": (Part("cifar", "automobile", 1500), Part("clothing", "hat", 100), Part("digits", "7", 60)),
    "objects-b": (Part("cifar", "deer", 1500), Part("clothing", "shoes", 100), Part("digits", "2", 60)),
    "figures-a": (Part("digits", "3", 170), Part("digits", "0", 60), Part("digits", "6", 20)),
    "figures-b": (Part("digits", "8", 170), Part("digits", "4", 60), Part("digits", "2", 20)),
}


def _recipe(name: str, family: str, held_out: bool, make: Callable[[], Collection]) -> Recipe:  # noqa: FBT001
    return Recipe(name, family, held_out, lambda: replace(make(), family=family, held_out=held_out))


def in_form(collection: Collection, form: str) -> Collection:
    """A plain collection with added junk or near-duplicates; "plain" returns it unchanged."""
    if form == "plain":
        return collection
    seed = _seed(collection.name, form)
    if form == "junk":
        count = max(4, round(JUNK_SHARE * len(collection.images)))
        made = junk_images(collection.images, count, seed=seed)
        names, images = [f"junk/{kind}-{i:03d}" for i, (kind, _) in enumerate(made)], [image for _, image in made]
        labels, copy = np.full(count, -1), np.zeros(count, dtype=bool)
    elif form == "copies":
        copies = near_duplicates(collection.images, seed=seed)
        names = [f"copy/{i:03d}-of-{collection.ids[each.original]}" for i, each in enumerate(copies)]
        images = [each.image for each in copies]
        labels = collection.labels[[each.original for each in copies]]
        copy = np.ones(len(copies), dtype=bool)
    else:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
    # At random positions, so that scores cannot use the order of the images.
    place = np.random.default_rng(seed).permutation(len(collection.images) + len(images))
    all_images, ids = [*collection.images, *images], [*collection.ids, *names]
    return replace(
        collection,
        name=f"{collection.name}+{form}",
        form=form,
        images=[all_images[i] for i in place],
        ids=[ids[i] for i in place],
        labels=np.concatenate([collection.labels, labels])[place],
        copy=np.concatenate([collection.copy, copy])[place],
    )


def digit_tail(pools: Pools, name: str, rare: Sequence[int]) -> Collection:
    """Digits with 174 to 8 images per class, and given rare classes in `rare`, from more to fewer images."""
    source = pools.digits
    order = [*(c for c in range(10) if c not in rare), *rare]
    counts = long_tail_counts(10, 174, 20)
    random = np.random.default_rng(_seed(name))
    chosen = [
        random.permutation(np.flatnonzero(source.labels == class_id))[:count]
        for class_id, count in zip(order, counts, strict=True)
    ]
    return _plain(name, source, np.sort(np.concatenate(chosen)), tuple(rare), SMALL_IMAGE_SIDE)


def drawn_tail(pools: Pools, pool: str, name: str, profile: tuple[int, int], order: int) -> Collection:
    """A long tail over a random class order; `profile` is the largest class and the imbalance."""
    source = pools.open(pool)
    drawn = long_tail_split(
        np.asarray(source.labels),
        max_count=profile[0],
        imbalance=profile[1],
        seed=order,
        few_shot_fraction=0,
        fit_order=pool == "clothing",  # its classes have different sizes
    )
    few = tuple(class_groups(drawn.counts)["few"].tolist())
    return _plain(name, source, drawn.long_tail, few, PHOTO_SIDE if pool == "clothing" else SMALL_IMAGE_SIDE)


def clothing_as_it_is(pools: Pools) -> Collection:
    """All training photos of garments; the three smallest classes are rare."""
    source = pools.open("clothing")
    few = class_groups(np.bincount(np.asarray(source.labels)))["few"]
    return _plain("clothing", source, np.arange(len(source)), tuple(few.tolist()), PHOTO_SIDE)


def separated(pools: Pools, name: str, parts: Sequence[Part]) -> Collection:
    """Images of different sources. Each part is one class, and all classes except the largest are rare."""
    images: list[Image] = []
    ids: list[str] = []
    random = np.random.default_rng(_seed(name))
    for part in parts:
        source = pools.open(part.pool)
        wanted = np.arange(len(source))
        if part.class_name is not None:
            wanted = np.flatnonzero(source.labels == source.classes.index(part.class_name))
        if len(wanted) < part.count:
            raise ValueError(f"{source.name} has {len(wanted)} images of {part.class_name}, not {part.count}")
        chosen = np.sort(random.permutation(wanted)[: part.count])
        images += [source.image(int(i)) for i in chosen]
        ids += [f"{part.pool}/{source.ids[i]}" for i in chosen]
    labels = np.repeat(np.arange(len(parts)), [part.count for part in parts])
    place = random.permutation(len(images))
    return Collection(
        name=f"separated-{name}",
        family="",
        form="plain",
        images=[images[i] for i in place],
        ids=[ids[i] for i in place],
        labels=labels[place],
        rare_classes=tuple(range(1, len(parts))),
        copy=np.zeros(len(images), dtype=bool),
        input_size=SMALL_IMAGE_SIDE if all(part.pool == "digits" for part in parts) else PHOTO_SIDE,
        held_out=False,
    )


def _plain(name: str, source: Source, chosen: NDArray[np.int64], rare: tuple[int, ...], size: int) -> Collection:
    return Collection(
        name=name,
        family="",
        form="plain",
        images=[source.image(int(i)) for i in chosen],
        ids=[str(source.ids[i]) for i in chosen],
        labels=np.asarray(source.labels)[chosen].astype(np.int64),
        rare_classes=rare,
        copy=np.zeros(len(chosen), dtype=bool),
        input_size=size,
        held_out=False,
    )


def _seed(*names: str) -> int:
    """A seed that depends only on names."""
    return int.from_bytes(hashlib.blake2s("/".join(names).encode(), digest_size=4).digest(), "big")
