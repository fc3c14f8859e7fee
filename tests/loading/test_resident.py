"""The resident loader's own promises: it makes no GPU wait, and takes options that change no view.

There need be no GPU: torch's fake tensors say what would happen on one. They have a device, a shape and strides but no
values, so that whatever asks for a value, or for a shape that depends on one, fails.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sdclr.loading.batches import ResidentLoader
from sdclr.views import render as module
from sdclr.views.parameters import ViewConfig
from sdclr.views.render import to_device


def pictures(n=50, side=20, device="cpu"):
    return (
        torch.arange(n * 3 * side * side, device=device).mul(7919).remainder(256).to(torch.uint8).view(n, 3, side, side)
    )


def resident(images, blur=0.5, image_size=16, **options):
    config = ViewConfig(image_size=image_size, blur=blur)
    return ResidentLoader(images, config, seed=3, batch_size=8, **options)


WAITS = {
    "value": lambda x: float(x.sum()),
    "condition": lambda x: bool(x.any()),
    "list": lambda x: x.tolist(),
    "to the host": lambda x: x.cpu(),
    "array": np.asarray,
    "equal": lambda x: torch.equal(x, x),
    "positions": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 3),
    "mask": lambda x: x[x > 3],
    "assignment by mask": lambda x: x.__setitem__(x > 3, torch.zeros(1)),
    "masked_select": lambda x: x.masked_select(x > 3),
    "unique": lambda x: x.unique(),
    "repetition": lambda x: x.long().repeat_interleave(torch.ones(6, dtype=torch.int64)),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long()),
    "device": lambda x: x.to("cpu"),
    "literal on a device": lambda _: torch.tensor([1.0], device="cpu"),
    "inverse": lambda _: torch.linalg.inv(torch.eye(3)),
}
GOES_ON = {
    "positions": lambda x: x[torch.tensor([1, 2])],
    "masked_fill": lambda x: x.masked_fill(x > 3, 0),
    "where": lambda x: torch.where(x > 3, x, 0),
    "type": lambda x: x.to(torch.float64),
    "device": lambda x: x.to("cpu", non_blocking=True),
    "repetition": lambda x: x.repeat_interleave(2),
    "from_numpy": lambda _: torch.from_numpy(np.ones(3)),
    "full": lambda x: torch.full((2,), 3.0, device=x.device),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_is_found(what, no_synchronization):
    x = torch.arange(6.0)
    with no_synchronization() as watched:
        WAITS[what](x)
    assert watched.found
    assert "test_resident.py:" in watched.found[0]


@pytest.mark.parametrize("what", GOES_ON)
def test_what_does_not_wait_is_let_through(what, no_synchronization):
    x = torch.arange(6.0)
    with no_synchronization() as watched:
        GOES_ON[what](x)
    assert not watched.found


def test_a_copy_between_devices_that_waits_is_found(no_synchronization):
    with FakeTensorMode(), no_synchronization() as watched:
        x = torch.ones(3).to("cuda", non_blocking=True)
        x.copy_(torch.ones(3), non_blocking=True)
        assert not watched.found
        x.copy_(torch.ones(3))
        assert "copy_" in watched.found.pop()
        x[torch.zeros(2, dtype=torch.int64, device="cuda")]
        assert not watched.found
        x[torch.zeros(2, dtype=torch.int64)]
        assert "index" in watched.found.pop()


@pytest.mark.parametrize("blur", [0.0, 0.5])
def test_no_step_on_the_cpu_does_what_would_wait_on_a_gpu(blur, no_synchronization):
    loader = resident(pictures(), blur)
    with no_synchronization() as watched:
        assert len(list(loader.epoch(0))) == 6
    assert not watched.found


@pytest.fixture
def fake_gpu(monkeypatch):
    """A GPU of which only shapes are known; lists what is pinned."""
    pinned = []

    def pin(tensor):
        pinned.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    module._down_table.cache_clear()
    module._across_table.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield pinned
    module._down_table.cache_clear()
    module._across_table.cache_clear()


@pytest.mark.parametrize("side", [20, 100])
@pytest.mark.parametrize("blur", [0.0, 0.5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_no_step_on_a_gpu_waits(side, blur, channels_last, fake_gpu, no_synchronization):
    loader = resident(pictures(side=side, device="cuda"), blur, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with no_synchronization() as watched:
        for batch in loader.epoch(0):
            for view in (batch.view1, batch.view2):
                assert view.is_cuda
                assert view.shape == (8, 3, 16, 16)
                assert view.is_contiguous(memory_format=layout)
    assert not watched.found
    assert fake_gpu.count((6, 8)) == 1  # the order of the epoch,
    assert (8,) not in fake_gpu  # at once
    assert fake_gpu.count((8, 2, module._NUMBERS)) == 6  # and the views of each step


def test_a_fake_gpu_knows_no_values(fake_gpu):
    assert to_device(np.ones(3), torch.device("cuda")).is_cuda
    assert fake_gpu == [(3,)]
    with pytest.raises(DataDependentOutputException):
        float(torch.ones(1, device="cuda") + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_on_a_real_gpu_waits(compiled):
    loader = resident(pictures().cuda(), compile=compiled)
    steps = loader.epoch(0)
    next(steps)  # tables, and what is compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(batches) == 5


@pytest.mark.parametrize("rank", [0, 1])
def test_the_memory_layout_changes_no_view(rank):
    plain, other = (resident(pictures(), channels_last=last, rank=rank, world=2) for last in (False, True))
    for one, two in zip(plain.epoch(1), other.epoch(1), strict=True):
        assert np.array_equal(one.indices, two.indices)
        for view, same in ((one.view1, two.view1), (one.view2, two.view2)):
            assert same.is_contiguous(memory_format=torch.channels_last)
            assert not same.is_contiguous()
            assert torch.equal(view, same)


def test_a_loader_that_compiles_gives_the_same_views(monkeypatch):
    torch._dynamo.reset()
    compiled = torch.compile(module.draw, backend="aot_eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(module, "_compiled", lambda: compiled)
    for one, two in zip(resident(pictures()).epoch(2), resident(pictures(), compile=True).epoch(2), strict=True):
        torch.testing.assert_close(one.view1, two.view1, atol=2e-6, rtol=0)
        torch.testing.assert_close(one.view2, two.view2, atol=2e-6, rtol=0)
    torch._dynamo.reset()
