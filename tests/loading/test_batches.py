from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr.errors import InputError
from sdclr.loading.batches import Loader, ResidentLoader, epoch_batches
from sdclr.loading.streaming import StreamLoader
from sdclr.views.parameters import ViewConfig

CONFIG = ViewConfig(image_size=16, blur=0.5)

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Pictures:
    """A source of smooth random images of several sizes."""

    labels = None
    classes = ()
    name = "pictures"

    def __init__(self, n: int) -> None:
        self.ids = [f"p/{index}" for index in range(n)]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None):  # noqa: ARG002  # nothing to decode
        coarse = np.random.default_rng(index).integers(60, 200, (5, 4 + index % 3, 3), dtype=np.uint8)
        return np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))


def resident(n=50, batch_size=8, **changes):
    images = torch.randint(0, 256, (n, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return ResidentLoader(images, CONFIG, **({"seed": 3, "batch_size": batch_size} | changes))


def stream(source, batch_size=8, **changes):
    return StreamLoader(source, CONFIG, **({"seed": 3, "batch_size": batch_size} | changes))


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(a.indices, b.indices) and torch.equal(a.view1, b.view1) and torch.equal(a.view2, b.view2)
        for a, b in zip(one, two, strict=True)
    )


@settings(max_examples=100, deadline=None)
@given(
    share=st.integers(1, 9),
    world=st.integers(1, 4),
    steps=st.integers(1, 6),
    rest=st.integers(0, 100),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 5000),
)
def test_ranks_share_each_batch_of_one_permutation(*, share, world, steps, rest, seed, epoch):
    batch_size = share * world
    n = steps * batch_size + rest % batch_size
    whole = epoch_batches(n, batch_size, seed=seed, epoch=epoch)
    assert whole.shape == (steps, batch_size)
    assert len(np.unique(whole)) == whole.size
    assert whole.min() >= 0
    assert whole.max() < n
    parts = [epoch_batches(n, batch_size, seed=seed, epoch=epoch, rank=rank, world=world) for rank in range(world)]
    assert all(part.shape == (steps, share) for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    buffer=st.integers(1, 80),
    seed=st.integers(0, 2**63),
    weighted=st.booleans(),
)
def test_a_buffer_holds_whole_blocks_and_every_sample_comes_once(*, sizes, buffer, seed, weighted):
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    how = {"seed": seed, "epoch": 1, "weights": np.arange(1.0, 1 + len(blocks)) if weighted else None}
    plain = epoch_batches(len(blocks), 1, **how)[:, 0]
    keys = epoch_batches(len(blocks), 1, blocks=blocks, shuffle_buffer=buffer, **how)[:, 0]
    assert sorted(keys) == sorted(plain)
    assert np.array_equal(keys, epoch_batches(len(blocks), 1, blocks=blocks, shuffle_buffer=buffer, **how)[:, 0])
    assert np.array_equal(plain, epoch_batches(len(blocks), 1, blocks=blocks, shuffle_buffer=0, **how)[:, 0])
    if weighted:
        return
    seen = blocks[keys]
    first = {block: int(np.flatnonzero(seen == block)[0]) for block in range(len(sizes))}
    last = {block: int(np.flatnonzero(seen == block)[-1]) for block in range(len(sizes))}
    for block, size in enumerate(sizes):
        # Until a block is through, no more come than fill the buffer, the last of them whole.
        assert last[block] - first[block] < buffer + max(sizes)
        assert last[block] - first[block] >= size - 1


def test_blocks_come_in_another_order_in_each_epoch():
    blocks = np.repeat(np.arange(20), 5)
    orders = [
        blocks[epoch_batches(100, 5, seed=0, epoch=epoch, blocks=blocks, shuffle_buffer=1)].mean(axis=1).tolist()
        for epoch in range(2)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0] != orders[1]


def test_a_buffer_needs_blocks():
    with pytest.raises(InputError, match="only tar shards and Parquet files are shuffled in blocks: leave out"):
        stream(Pictures(50), shuffle_buffer=5)


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return tuple(epoch_batches(64, 64, seed=seed, epoch=epoch)[0].tolist())

    keys = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert order(1, 2) == order(1, 2)
    assert len({order(*key) for key in keys}) == len(keys)


def test_every_sample_is_equally_likely_to_be_dropped():
    seen = np.zeros(10)
    for epoch in range(2000):
        seen[epoch_batches(10, 8, seed=0, epoch=epoch)[0]] += 1
    assert seen.sum() == 16_000
    assert np.abs(seen / 2000 - 0.8).max() < 0.035


@pytest.mark.parametrize(
    ("n", "batch_size", "world", "said"),
    [
        (7, 8, 1, "7 images, fewer than one batch of 8: lower --batch-size"),
        (100, 9, 2, "9 cannot be shared by 2 processes: give a multiple of 2"),
        (100, 0, 1, "batch size 0"),
    ],
)
def test_impossible_batches_are_refused(n, batch_size, world, said):
    with pytest.raises(InputError, match=said):
        epoch_batches(n, batch_size, seed=0, epoch=0, world=world)
    with pytest.raises(InputError, match=said):
        resident(n, batch_size, world=world)
    with pytest.raises(InputError, match=said):
        stream(Pictures(n), batch_size, world=world)


LOADERS = [resident, lambda **changes: stream(Pictures(50), **changes)]


@pytest.mark.parametrize("make", LOADERS, ids=["resident", "stream"])
def test_batches_are_pairs_of_different_views_in_the_order_of_the_epoch(make):
    loader: Loader = make()
    batches = list(loader.epoch(1))
    assert len(batches) == loader.steps_per_epoch == 6
    assert np.array_equal([batch.indices for batch in batches], epoch_batches(50, 8, seed=3, epoch=1))
    for batch in batches:
        for view in (batch.view1, batch.view2):
            assert view.shape == (8, 3, 16, 16)
            assert view.dtype == torch.float32
            assert view.is_contiguous() or view.is_contiguous(memory_format=torch.channels_last)
            assert view.min() >= 0
            assert 0.5 < view.max() <= 1
        assert not torch.equal(batch.view1, batch.view2)
    assert not loader.bad
    assert not same(batches, list(loader.epoch(2)))
    assert not same(batches, list(make(seed=4).epoch(1)))


@pytest.mark.parametrize("make", LOADERS, ids=["resident", "stream"])
@pytest.mark.parametrize("start", [0, 2, 5, 6])
def test_an_epoch_resumed_in_the_middle_is_the_same_epoch(make, start):
    whole = list(make().epoch(4))
    assert same(list(make().epoch(4, start)), whole[start:])


@pytest.mark.parametrize("make", LOADERS, ids=["resident", "stream"])
def test_two_ranks_together_see_the_batches_of_one(make):
    whole = list(make().epoch(2))
    ranks = [list(make(rank=rank, world=2).epoch(2)) for rank in range(2)]
    for batch, one, two in zip(whole, *ranks, strict=True):
        assert np.array_equal(np.concatenate([one.indices, two.indices]), batch.indices)
        torch.testing.assert_close(torch.cat([one.view1, two.view1]), batch.view1, atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.cat([one.view2, two.view2]), batch.view2, atol=1e-6, rtol=0)


def test_weights_decide_how_often_samples_come_and_copies_have_views_of_their_own():
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    loader = ResidentLoader(images, ViewConfig(image_size=8), seed=0, batch_size=4)
    plain = np.concatenate([batch.indices for batch in loader.epoch(0)])
    assert sorted(plain) == list(range(12))
    loader.weights = np.where(np.arange(12) == 5, 6.0, 1.0)
    batches = list(loader.epoch(1))
    found = np.concatenate([batch.indices for batch in batches])
    assert 4 <= (found == 5).sum() <= 5  # 12 · 6 / 17
    views = torch.cat([batch.view1 for batch in batches])[found == 5]
    assert all(not torch.equal(one, other) for one, other in pairwise(views))
    again = list(loader.epoch(1, 2))
    torch.testing.assert_close(again[0].view1, batches[2].view1)
