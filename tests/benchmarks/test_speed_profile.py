"""The profile of a step: that all of its time is told, and that operations are counted right."""

import importlib
import itertools

import pytest
import torch
from torch import nn


@pytest.fixture
def profiler():
    return importlib.import_module("speed_profile")


@pytest.fixture
def size():
    return importlib.import_module("speed_steps").StepSize(width=4, batch=8, image_size=16)


@pytest.fixture
def images():
    return torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_groups_make_up_the_whole_step(profiler, size, images, monkeypatch, amp):
    seen, by_group = [], profiler._by_group

    def noted(events):
        seen.extend(events)
        return by_group(events)

    monkeypatch.setattr(profiler, "_by_group", noted)
    found = profiler.profile_step(images, size, amp, steps=2)
    whole = [event.cpu_time_total for event in seen if event.name == profiler.STEP]
    assert len(whole) == 2
    assert found.total == pytest.approx(sum(whole) / 2 / 1e6)
    assert min(found.seconds.values()) > 0


def test_backward_operations_count_to_their_forward_ones(profiler, size, images, monkeypatch):
    kinds, group_of = {}, profiler._group

    def noted(event, inherited, forward):
        group = group_of(event, inherited, forward)
        kinds.setdefault(event.name.removeprefix(profiler._NODE), set()).add(group)
        return group

    monkeypatch.setattr(profiler, "_group", noted)
    profiler.profile_step(images, size, "none", steps=1)
    assert kinds["ConvolutionBackward0"] == {profiler.BACKWARD}
    assert kinds["NativeBatchNormBackward0"] == {profiler.NORM}
    assert kinds["ReluBackward0"] == {profiler.ELEMENTWISE}
    assert profiler.MASKS in kinds["MulBackward0"]
    assert profiler.LOSS in kinds["DivBackward0"]


def test_operations_are_those_of_the_formula(profiler, size, images):
    steps = importlib.import_module("speed_steps")
    network = steps.Training("sdclr", size).objective.network
    forward, first = [], []

    def count(module, _inputs, output):
        inside = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        forward.append(2 * inside * output.numel())
        first.append(module.in_channels == 3)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.rand(8, 3, 16, 16))
    # Backward: to the weights and to the input, but for the images, which take no gradient. Two branches.
    expected = 2 * sum(flops * (2 if images else 3) for flops, images in zip(forward, first, strict=True))
    found = profiler.profile_step(images, size, "none", steps=1)
    assert found.flops["convolutions"] == expected
    assert found.flops["all"] > expected


def test_the_peak_is_the_best_of_several_products(profiler, monkeypatch):
    # The first, which warms up, takes no time here; those that count take 1, 3, 5, ... seconds.
    clock = itertools.chain([0, 0], (moment for number in itertools.count() for moment in (0, 1 + 2 * number)))
    monkeypatch.setattr(profiler.time, "perf_counter", lambda: next(clock))
    assert profiler.matrix_rate("bf16", 8, repeats=3) == 2 * 8**3 / 1


def test_both_tables_and_the_target(profiler, size, images):
    found = profiler.profile_steps(images, [size], product=64)
    shares, rates = found.tables
    for column in (1, 2):
        total = sum(float(row[column].rstrip("%")) for row in shares.rows[:-1])
        assert total == pytest.approx(100, abs=1)
    assert [row[0] for row in rates.rows] == ["width 4, batch 8, float32", "width 4, batch 8, bf16"]
    (target,) = found.targets
    convolutions = sum(float(row[1].rstrip("%")) for row in shares.rows[:2])
    assert target.measured == pytest.approx(convolutions / 100, abs=2e-3)
    assert not target.at_most
