"""The ranking against plain sorting, and the description of kinds."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from sdclr.mining.kinds import Kinds
from sdclr.mining.ranking import kind_groups, rank_images
from sdclr.reporting.gallery_entries import KindGroup

KINDS = Kinds(
    labels=np.repeat([0, 1], [40, 2]),
    sizes=np.array([40, 2]),
    separation=np.array([0.75, 0.5]),
    medoids=np.array([3, 41]),
    odd=np.empty(0, dtype=np.int64),
)


def test_each_kind_is_described_by_its_values():
    found = kind_groups(KINDS)
    assert found == (
        KindGroup(kind=0, size=40, separation=0.75, medoid=3, rare=False),
        KindGroup(kind=1, size=2, separation=0.5, medoid=41, rare=True),
    )
    assert json.loads(json.dumps([asdict(group) for group in found]))[1]["medoid"] == 41


def test_kinds_of_some_images_of_a_collection():
    found = kind_groups(KINDS, 10 * np.arange(42) + 5, rare=np.array([True, False]))
    assert [group.medoid for group in found] == [35, 415]
    assert [group.rare for group in found] == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_that_of_plain_sorting(seed):
    generator = np.random.default_rng(seed)
    ids = [f"{number}.png" for number in range(60)]
    rarity, ties = generator.integers(4, size=60) / 2, generator.integers(3, size=60).astype(np.uint8)
    bad = {ids[row]: "truncated" for row in (0, 17, 59)}
    kinds = generator.integers(2, size=60).astype(np.int32)
    scores = rank_images(ids, {"size": kinds}, rarity, kinds, score="x", bad=bad, ties=ties)
    good = [row for row in range(60) if ids[row] not in bad]
    order = sorted(good, key=lambda row: (-rarity[row], -int(ties[row]), row))
    assert scores.order().tolist() == order
    for place, row in enumerate(order):
        assert scores.rank[row] == place + 1
        assert scores.percentile[row] == pytest.approx(100 * (56 - place) / 56)
        assert scores.columns["size"][row] == scores.kinds[row] == kinds[row]
    for name in ("rank", "kinds", "odd"):
        assert getattr(scores, name).dtype == np.int64
    for values in (scores.rarity, scores.percentile, scores.columns["size"]):
        assert values.dtype == np.float32
        assert np.isnan(values[[0, 17, 59]]).all()
    assert scores.kinds[[0, 17, 59]].tolist() == [-1, -1, -1]


def test_few_images_are_ranked_as_well():
    assert len(rank_images([], {}, [], [], score="x").order()) == 0
    (alone,) = rank_images(["a", "b"], {}, [1, 2], [0, 0], score="x", bad={"b": "truncated"}).order()
    assert alone == 0
    two = rank_images(["a", "b"], {}, [1, 2], [0, 0], score="x")
    assert two.percentile.tolist() == [0, 100]
