"""The collections of the contest of rarity scores: what they hold, and that a seed decides all of it."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sdclr.data.sources import ArraySource


@pytest.fixture(scope="module")
def collections(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("collections_for_rarity")


@pytest.fixture(scope="module")
def spoil(_scripts_import_each_other: None) -> ModuleType:
    return importlib.import_module("junk_and_copies")


@pytest.fixture
def pools(collections):
    return collections.Pools(Path("absent"), Path("absent"))


def test_a_digit_tail_makes_the_named_digits_rare(collections, pools):
    made = collections.digit_tail(pools, "digits-tight", (0, 6, 4))
    counts = np.bincount(made.labels, minlength=10)
    assert counts.max() == 174
    assert sorted(counts[[0, 6, 4]].tolist()) == sorted(counts.tolist())[:3]
    assert made.rare.sum() == counts[[0, 6, 4]].sum()
    again = collections.digit_tail(pools, "digits-tight", (0, 6, 4))
    assert again.ids == made.ids
    assert len(set(made.ids)) == len(made.ids)


def test_separated_digits_are_those_asked_for(collections, pools):
    made = collections.separated(pools, "figures-a", collections.SEPARATED["figures-a"])
    assert np.bincount(made.labels).tolist() == [170, 60, 20]
    assert made.rare.sum() == 80
    truth = dict(zip(pools.digits.ids, pools.digits.labels.tolist(), strict=True))
    digit = [truth[name.removeprefix("digits/")] for name in made.ids]
    assert set(zip(made.labels.tolist(), digit, strict=True)) == {(0, 3), (1, 0), (2, 6)}
    assert (np.diff(made.labels) != 0).sum() > 20  # mixed, not one class after the other


def test_junk_is_no_class_and_nothing_is_lost(collections, pools):
    plain = collections.drawn_tail(pools, "digits", "digits-order1", (100, 50), 1)
    junk = collections.in_form(plain, "junk")
    assert junk.junk.sum() == max(4, round(0.02 * len(plain.images)))
    assert not (junk.junk & junk.rare).any()
    assert junk.rare.sum() == plain.rare.sum()
    kept = {name: image for name, image in zip(junk.ids, junk.images, strict=True) if not name.startswith("junk/")}
    assert set(kept) == set(plain.ids)
    assert all(np.array_equal(kept[name], image) for name, image in zip(plain.ids, plain.images, strict=True))


def test_copies_have_the_class_of_their_original(collections, pools):
    plain = collections.drawn_tail(pools, "digits", "digits-order1", (100, 50), 1)
    copies = collections.in_form(plain, "copies")
    label_of = dict(zip(plain.ids, plain.labels.tolist(), strict=True))
    added = [i for i, copied in enumerate(copies.copy) if copied]
    assert len(added) == len(copies.images) - len(plain.images) >= 16
    assert all(copies.labels[i] == label_of[copies.ids[i].partition("-of-")[2]] for i in added)


def test_an_unknown_form_is_refused(collections, pools):
    plain = collections.separated(pools, "figures-a", collections.SEPARATED["figures-a"])
    with pytest.raises(ValueError, match="blurred"):
        collections.in_form(plain, "blurred")


def test_those_kept_back_come_last_and_names_are_unique(collections, pools):
    found = list(collections.recipes(pools))
    assert len({recipe.name for recipe in found}) == len(found)
    held = [recipe.held_out for recipe in found]
    assert held == sorted(held)
    assert {recipe.name for recipe in found if recipe.held_out} >= {"cifar-if50-order3", "separated-photos-b"}


def test_junk_is_what_it_is_called(spoil):
    random = np.random.default_rng(0)
    photos = [random.integers(60, 200, (40, 48, 3), dtype=np.uint8) for _ in range(12)]
    made = spoil.junk_images(photos, 12, seed=3)
    by_kind = dict(made)
    assert [kind for kind, _ in made] == 2 * list(spoil.JUNK)
    assert all(image.shape == (40, 48, 3) and image.dtype == np.uint8 for _, image in made)
    assert by_kind["black"].mean() < 8
    assert by_kind["overexposed"].mean() > 240
    assert by_kind["color"].reshape(-1, 3).std(axis=0).max() == 0
    whole, torn = photos[0], spoil.JUNK["torn"](photos[0], np.random.default_rng(1))
    assert np.array_equal(torn[:8], whole[:8])
    assert not np.array_equal(torn[-8:], whole[-8:])
    assert any(np.array_equal(a[1], b[1]) for a, b in zip(made, spoil.junk_images(photos, 12, seed=3), strict=True))


def test_bursts_are_near_their_original_and_others_are_not(spoil):
    images = [ArraySource(np.full((1, 24, 24), 20 * i, dtype=np.uint8)).image(0) for i in range(10)]
    ramp = np.linspace(0, 60, 24, dtype=np.uint8)[:, None]
    images = [np.clip(image + ramp[..., None], 0, 255).astype(np.uint8) for image in images]
    copies = spoil.near_duplicates(images, seed=0)
    bursts = [each for each in copies if each.burst]
    assert len(bursts) >= 8
    for each in bursts:
        gaps = [np.abs(each.image.astype(float) - image).mean() for image in images]
        assert int(np.argmin(gaps)) == each.original
