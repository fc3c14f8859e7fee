"""The steps that are compared, at sizes that take no time: that they do the same work."""

import importlib
import itertools

import pytest
import torch


@pytest.fixture
def steps():
    return importlib.import_module("speed_steps")


@pytest.fixture
def lightly():
    return importlib.import_module("speed_lightly")


@pytest.fixture
def size(steps):
    return steps.StepSize(width=4, batch=8, image_size=16)


def test_three_forwards_leave_the_gradient_of_the_one_forward(steps, size):
    view1, view2 = torch.rand(2, 8, 3, 16, 16, dtype=torch.float64)
    one, three = (steps.Training("sdclr", size).objective.double() for _ in range(2))
    one(view1, view2).mean().backward()
    steps.three_forwards(three, view1, view2)
    for (name, ours), theirs in zip(one.named_parameters(), three.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-6, atol=1e-10, msg=name)
    largest = max(float(parameter.grad.abs().max()) for parameter in one.parameters())
    assert largest > 1e-3  # there is something to compare


def test_processor_time_is_that_of_one_thread_in_both_precisions(steps, size, monkeypatch):
    threads, images = torch.get_num_threads(), torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8)
    seen = []
    step = steps.Training.step
    monkeypatch.setattr(
        steps.Training,
        "step",
        lambda self, *views: [seen.append((self.amp, torch.get_num_threads())), step(self, *views)],
    )
    work = steps.compare_work(images, size, steps.Effort(rounds=2, seconds=60, warmup=0))
    assert seen == 2 * [("none", 1), ("none", 1), ("bf16", 1), ("bf16", 1)]
    assert list(work.samples) == ["SDCLR, float32", "SimCLR, float32", "SDCLR, bf16", "SimCLR, bf16"]
    assert torch.get_num_threads() == threads


def test_the_fixed_costs_of_a_competitor_are_above_those_of_its_network(steps, size):
    milliseconds = dict(steps.fixed_costs(size, rounds=5).rows)
    assert milliseconds["forward pass, competitor"] > milliseconds["forward pass, network"] > 0
    assert 0 < milliseconds["masked weights alone"] < milliseconds["whole step, SDCLR"]


def test_a_step_of_three_forwards_is_our_step(steps, size):
    views = torch.rand(2, 8, 3, 16, 16)
    ours, theirs, untouched = (steps.Training("sdclr", size) for _ in range(3))
    for group in (*ours.optimizer.param_groups, *theirs.optimizer.param_groups):
        group["lr"] = 0.1
    ours.step(*views)
    theirs.step_of_three_forwards(*views)
    before, one, three = (
        torch.cat([parameter.flatten() for parameter in training.objective.parameters()])
        for training in (untouched, ours, theirs)
    )
    assert (one - before).abs().max() > 1e-3
    torch.testing.assert_close(three, one, rtol=1e-3, atol=1e-5)


def test_both_methods_start_from_the_same_network(steps, size):
    ours, plain = (steps.Training(method, size).objective for method in ("sdclr", "simclr"))
    assert ours.competitor is not None
    assert plain.competitor is None
    for mine, other in zip(ours.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_lightlys_step_is_that_of_our_simclr(steps, lightly, size):
    ours, theirs = steps.Training("simclr", size), lightly.LightlyTraining(size)
    network, encoder = ours.objective.network.double(), ours.objective.network.encoder
    theirs.network.double()
    for state in ours.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].double()
    pairs = list(zip(network.parameters(), theirs.network.parameters(), strict=True))
    for mine, other in pairs:
        other.data.copy_(mine)
    for group in (*ours.optimizer.param_groups, *theirs.optimizer.param_groups):
        group["lr"] = 0.1
    before = [mine.detach().clone() for mine, _ in pairs]
    for seed in range(2):  # the second step has momentum
        torch.manual_seed(seed)
        views = torch.rand(2, 8, 3, 16, 16, dtype=torch.float64)
        ours.step(*views)
        theirs.step(*((views - encoder.mean) / encoder.std))
    for (mine, other), first in zip(pairs, before, strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-6, atol=1e-9)
        assert not torch.equal(mine, first)


def test_bf16_is_what_says_so(steps, lightly, size):
    for kind in (
        lambda amp: steps.Training("sdclr", size, amp=amp),
        lambda amp: lightly.LightlyTraining(size, amp=amp),
    ):
        for amp, dtype in (("none", torch.float32), ("bf16", torch.bfloat16)):
            training, seen = kind(amp=amp), []
            network = training.network if hasattr(training, "network") else training.objective.network
            convolution = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
            convolution.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output.dtype))
            training.step(*torch.rand(2, 8, 3, 16, 16))
            assert set(seen) == {dtype}


def test_views_come_to_lightly_in_torchs_own_layout(lightly, size, monkeypatch):
    layouts = []
    step = lightly.LightlyTraining.step

    def noted(training, view1, view2):
        layouts.append((view1.is_contiguous(), view2.is_contiguous()))
        step(training, view1, view2)

    monkeypatch.setattr(lightly.LightlyTraining, "step", noted)
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    effort = lightly.Effort(rounds=1, seconds=0, warmup=0)
    found, tables = lightly.compare_precisions(images, size, effort, compiled=False)
    assert list(found.samples) == ["SDCLR, bf16", "SDCLR", "lightly's SimCLR", "lightly's SimCLR, bf16"]
    assert set(layouts) == {(True, True)}
    assert tables == []


def test_compilation_is_told_apart_from_the_steps(lightly, size, monkeypatch):
    compiled = []

    def note(module):
        compiled.append(module)

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    clock = itertools.count()
    monkeypatch.setattr(lightly.time, "perf_counter", lambda: float(next(clock) ** 2))
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    monkeypatch.setattr(lightly, "compare", lambda *given: given)
    (_, _, _, candidates, _), (table,) = lightly.compare_precisions(
        images, size, lightly.Effort(rounds=1, seconds=0), compiled=True
    )
    assert [candidate.name for candidate in candidates][-1] == "SDCLR, bf16, compiled"
    assert len(compiled) == 1
    assert [seconds for _, seconds in table.rows] == [1, 5, 9]


def test_every_rival_of_the_refresh_chooses_the_same_masks(steps):
    competitor = steps.Training("sdclr", steps.StepSize(width=4, batch=2)).objective.competitor
    weights = steps.prunable_weights(competitor)
    library = steps.LibraryPruning(competitor)
    library.prune()
    library.restore()  # a second round must not build upon the first
    library.prune()
    rivals = [steps.topk_masks(weights, 0.9), steps.topk_kept_masks(weights, 0.9), library.masks]
    for masks in rivals:
        assert masks.keys() == competitor.masks.keys()
        assert all(torch.equal(masks[name], mask) for name, mask in competitor.masks.items())
