"""Batches that worker processes decode and draw; what all loaders promise is tested in test_loading.py."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from sdclr.data.sources import FolderSource
from sdclr.decoding import decode
from sdclr.errors import BadImageError, InputError
from sdclr.loading import streaming as module
from sdclr.loading.batches import epoch_batches
from sdclr.loading.streaming import StreamLoader
from sdclr.views.parameters import ViewConfig, draw_views
from sdclr.views.render_cv import render_cv

CONFIG = ViewConfig(image_size=16, blur=0.5)

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Pictures:
    """A source of smooth random images of several sizes, some of which cannot be decoded."""

    labels = None
    classes = ()
    name = "pictures"

    def __init__(self, n: int, bad: Sequence[int] = ()) -> None:
        self.ids = [f"p/{index}" for index in range(n)]
        self.bad = set(bad)
        self.asked: list[tuple[int, int | None]] = []

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int, *, min_side: int | None = None):
        self.asked.append((index, min_side))
        if index in self.bad:
            raise BadImageError(self.ids[index], "truncated")
        coarse = np.random.default_rng(index).integers(60, 200, (5, 4 + index % 3, 3), dtype=np.uint8)
        return np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))


def stream(source, batch_size=8, **changes):
    return StreamLoader(source, CONFIG, **({"seed": 3, "batch_size": batch_size} | changes))


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(a.indices, b.indices) and torch.equal(a.view1, b.view1) and torch.equal(a.view2, b.view2)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("together", [1, 3, 16])
@pytest.mark.parametrize("bad", [(), (4, 5)])
def test_a_sample_is_drawn_as_if_it_were_alone(monkeypatch, together, bad):
    monkeypatch.setattr(module, "_TOGETHER", together)
    source = Pictures(20, bad=bad)
    batches = list(stream(source).epoch(5))
    wanted = epoch_batches(20, 8, seed=3, epoch=5)
    for batch, samples in zip(batches, wanted, strict=True):
        for place, sample in enumerate(samples.tolist()):
            found = 6 if sample in bad else sample
            assert batch.indices[place] == found
            image = source.image(found)
            for view, drawn in enumerate((batch.view1, batch.view2)):
                params = draw_views(
                    CONFIG,
                    seed=3,
                    epoch=5,
                    indices=np.array([sample]),
                    view=view,
                    height=image.shape[0],
                    width=image.shape[1],
                )
                expected = torch.from_numpy(render_cv(image, params, 16)).permute(2, 0, 1).float() / 255
                assert torch.equal(drawn[place], expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_laid_out_channels_last(workers):
    batch = next(stream(Pictures(8), workers=workers).epoch(0))
    for view in (batch.view1, batch.view2):
        assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_floats_are_255ths(device):
    values = torch.arange(256, dtype=torch.uint8)
    floats = module.Floats(torch.device(device))(values)
    assert floats.dtype == torch.float32
    assert floats.device.type == device
    if device == "cpu":
        assert torch.equal(floats, values.float() / 255)


def test_memory_is_used_again_once_nobody_holds_the_batch():
    to_floats = module.Floats(torch.device("cpu"))
    first, second = (torch.full((4,), value, dtype=torch.uint8) for value in (51, 255))
    held = to_floats(first)
    address, part = held.data_ptr(), held[1:3]
    del held
    other = to_floats(second)  # the part still needs the first one's memory
    assert other.data_ptr() != address
    assert part.tolist() == pytest.approx([0.2, 0.2])
    del part
    assert to_floats(second).data_ptr() == address


def test_batches_that_are_kept_stay_as_they_were():
    loader = stream(Pictures(50))
    kept = list(loader.epoch(0))
    copies = [(batch.view1.clone(), batch.view2.clone()) for batch in kept]
    for _ in loader.epoch(1):
        pass
    assert all(
        torch.equal(batch.view1, one) and torch.equal(batch.view2, two)
        for batch, (one, two) in zip(kept, copies, strict=True)
    )


def test_workers_change_nothing():
    reference = stream(Pictures(50, bad=[7]))
    epochs = [list(reference.epoch(epoch)) for epoch in (0, 1)]
    for workers in (1, 2):
        loader = stream(Pictures(50, bad=[7]), workers=workers)
        assert same(list(loader.epoch(0)), epochs[0])
        left = loader.epoch(1)  # left in the middle: the next epoch must not see what was decoded ahead for it
        assert same([next(left), next(left)], epochs[1][:2])
        left.close()
        assert same(list(loader.epoch(1, start=2)), epochs[1][2:])
        assert loader.bad == reference.bad


def test_workers_decode_jpegs_by_opencv_to_the_same_views(tmp_path, capfd):
    for number in range(12):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((10, 10, 1), dtype=np.uint8))).save(tmp_path / f"{number:02d}.jpg")
    whole = (tmp_path / "04.jpg").read_bytes()
    (tmp_path / "04.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "05.jpg").write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 9 :])
    source = FolderSource(tmp_path)
    by_pillow, by_workers = stream(source, 4), stream(source, 4, workers=2)
    assert same(list(by_workers.epoch(0)), list(by_pillow.epoch(0)))
    assert by_workers.bad == by_pillow.bad == (("04.jpg", "truncated", True),)
    assert decode._standard_error is None  # this process is none of them
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_replaced_by_the_next_good_one_and_reported(workers):
    good = list(stream(Pictures(24)).epoch(0))
    loader = stream(Pictures(24, bad=[22, 23]), workers=workers)
    batches = list(loader.epoch(0))
    assert sorted(loader.bad) == [("p/22", "truncated", True), ("p/23", "truncated", True)]
    for batch, other in zip(batches, good, strict=True):
        expected = np.where(other.indices >= 22, 0, other.indices)
        assert np.array_equal(batch.indices, expected)
        kept = torch.from_numpy(other.indices < 22)
        assert torch.equal(batch.view1[kept], other.view1[kept])
    zeros = [view for batch in batches for view in batch.view1[torch.from_numpy(batch.indices == 0)]]
    assert len(zeros) == 3
    assert not torch.equal(zeros[0], zeros[1])
    assert not torch.equal(zeros[1], zeros[2])
    assert len(list(loader.epoch(1))) == 3
    assert len(loader.bad) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_without_one_good_image_ends_with_a_clear_error(workers):
    loader = stream(Pictures(10, bad=range(10)), workers=workers)
    with pytest.raises(InputError, match=r"^pictures: none of its 10 images can be decoded any more$"):
        next(loader.epoch(0))


def test_images_are_decoded_no_larger_than_asked():
    source = Pictures(8)
    next(stream(source).epoch(0))
    assert {side for _, side in source.asked} == {32}


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_reach_the_workers_with_the_next_epoch(workers):
    loader = stream(Pictures(10), batch_size=5, workers=workers)
    list(loader.epoch(0))
    loader.weights = np.where(np.arange(10) == 3, 1.0, 0.0)
    batches = list(loader.epoch(1))
    assert (np.concatenate([batch.indices for batch in batches]) == 3).all()
    views = torch.cat([batch.view1 for batch in batches])
    assert len({view.numpy().tobytes() for view in views}) == len(views)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_view_is_the_first_of_the_pair(workers):
    pairs = list(stream(Pictures(40)).epoch(2))
    alone = list(stream(Pictures(40), views=1, workers=workers).epoch(2))
    assert all(torch.equal(one.view1, pair.view1) for one, pair in zip(alone, pairs, strict=True))
    assert all(one.view2 is one.view1 or torch.equal(one.view2, one.view1) for one in alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_for_another_device_travel_in_memory_of_their_own(workers):
    batches = list(stream(Pictures(40), workers=workers, device="meta").epoch(0))
    assert [batch.view1.device.type for batch in batches] == ["meta"] * 5
    assert {batch.view2.shape for batch in batches} == {(8, 3, 16, 16)}


def test_a_batch_is_converted_before_its_memory_is_written_again():
    """However slow the reader, and however many batches there are for each place in shared memory."""
    wanted = list(stream(Pictures(64), batch_size=4).epoch(0))
    loader = stream(Pictures(64), batch_size=4, workers=2)
    for batch, other in zip(loader.epoch(0), wanted, strict=True):
        time.sleep(0.02)
        assert torch.equal(batch.view1, other.view1)
        assert torch.equal(batch.view2, other.view2)
