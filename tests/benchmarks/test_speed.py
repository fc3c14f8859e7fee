"""The speed benchmark at sizes that take no time: that it runs, and that what it compares is the same thing."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _scripts_import_each_other():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        yield


@pytest.fixture
def steps():
    return importlib.import_module("speed_steps")


@pytest.fixture
def harness():
    return importlib.import_module("speed_harness")


def pixels(count: int, side: int = 32) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8)


def test_three_forwards_leave_the_gradient_of_the_one_forward(steps):
    size = steps.StepSize(width=4, batch=8, image_size=16)
    view1, view2 = torch.rand(2, 8, 3, 16, 16, dtype=torch.float64)
    one, three = (steps.Training("sdclr", size).objective.double() for _ in range(2))
    one(view1, view2).mean().backward()
    steps.three_forwards(three, view1, view2)
    for (name, ours), theirs in zip(one.named_parameters(), three.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-6, atol=1e-10, msg=name)
    largest = max(float(parameter.grad.abs().max()) for parameter in one.parameters())
    assert largest > 1e-3  # there is something to compare


def test_a_step_of_three_forwards_is_our_step(steps):
    size = steps.StepSize(width=4, batch=8, image_size=16)
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


def test_both_methods_start_from_the_same_network(steps):
    size = steps.StepSize(width=4, batch=8, image_size=16)
    ours, plain = (steps.Training(method, size).objective for method in ("sdclr", "simclr"))
    assert ours.competitor is not None
    assert plain.competitor is None
    for mine, other in zip(ours.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(mine, other)


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


def test_candidates_take_turns_and_are_prepared(harness):
    calls: list[str] = []
    candidates = [
        harness.Candidate("a", lambda: calls.append("a")),
        harness.Candidate("b", lambda: calls.append("b"), prepare=lambda: calls.append("before b")),
    ]
    found = harness.compare("title", "note", "s", candidates, harness.Effort(rounds=2, seconds=60, warmup=2))
    assert calls == ["a", "before b", "b"] * 4  # two rounds of warming up, then two
    assert [len(values) for values in found.samples.values()] == [2, 2]


def test_rounds_stop_at_three_when_time_is_up(harness):
    found = harness.compare("title", "note", "s", [harness.Candidate("a", list)], harness.Effort(rounds=9, seconds=0))
    assert len(found.samples["a"]) == 3


def test_the_ratio_is_taken_round_by_round(harness):
    found = harness.Comparison("title", "note", "s", {"ours": [1.0, 20.0, 3.0], "peer": [2.0, 40.0, 3.0]})
    assert found.ratio("peer") == (0.5, 0.5, 0.75)  # medians alone would give 3 / 3
    assert found.table().splitlines()[-1] == "| peer | 3 | 0.500 (0.500 to 0.750) | 3 |"


@pytest.mark.parametrize(("at_most", "measured", "met"), [(True, 1.0, True), (True, 1.1, False), (False, 1.1, True)])
def test_a_target_says_whether_it_was_met(harness, at_most, measured, met):
    target = harness.Target(what="it", limit=1.0, at_most=at_most, measured=measured)
    assert target.met is met
    assert target.row()[-1] == ("yes" if met else "**no**")


def test_the_recipe_is_the_same_for_all():
    views = importlib.import_module("speed_views")
    large = views.large_views(batch=1, image_size=8)
    jitter = views.torchvision_view(large.config).transforms[2]
    lightly = views.lightly_view(large.config).transform.transforms
    assert lightly[0].scale == large.config.crop_scale
    assert lightly[4].p == jitter.p == large.config.jitter
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert tuple(getattr(lightly[4].transforms[0], name)) == tuple(getattr(jitter.transforms[0], name))


def test_a_second_copy_of_the_weights_would_be_seen(steps, monkeypatch):
    memory = importlib.import_module("speed_memory")
    size = steps.StepSize(width=4, batch=4, image_size=16)
    ours, plain = (memory.measure(method, size) for method in ("sdclr", "simclr"))
    assert ours.unexplained == plain.unexplained == 0
    for method, usage in (("sdclr", ours), ("simclr", plain)):
        objective = steps.Training(method, size).objective
        parameters = sum(parameter.nbytes for parameter in objective.parameters())
        assert usage.between == 2 * parameters + sum(buffer.nbytes for buffer in objective.buffers())  # 2: momentum

    class Hoarder(steps.Training):
        def step(self, *views):
            super().step(*views)
            self.copies = [parameter.detach().clone() for parameter in self.objective.network.parameters()]

    monkeypatch.setattr(memory, "Training", Hoarder)
    assert memory.measure("sdclr", size).unexplained == ours.weights


def test_a_tiny_run_fills_the_report(tmp_path, monkeypatch, capsys):
    speed = importlib.import_module("speed")
    tiny, effort = speed.StepSize(width=4, batch=4, image_size=16), speed.Effort(rounds=2, seconds=0)
    plan = speed.Plan(
        steps=((tiny, effort),),
        memory=((tiny, 1),),
        refresh_width=4,
        refresh=effort,
        small=speed.small_views(batch=8, peer_batch=2),
        large=speed.large_views(batch=2, image_size=40),
        large_side=48,
        views=effort,
    )
    monkeypatch.setattr(speed, "quick", lambda: plan)
    monkeypatch.setattr(speed, "read_images", lambda _data: pixels(16))
    monkeypatch.setattr(torch, "set_num_threads", lambda _threads: None)  # the suite's own number stays
    out = tmp_path / "new" / "speed.md"
    speed.main(["--quick", "--out", str(out)])
    text, values = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert text in capsys.readouterr().out
    assert len(values["comparisons"]) == 4
    titles = ["Targets", *(comparison["title"] for comparison in values["comparisons"]), f"Memory, {tiny}"]
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == titles
    samples = [taken for comparison in values["comparisons"] for taken in comparison["samples"].values()]
    assert all(len(taken) == 2 and min(taken) > 0 for taken in samples)
    limits = [(target["limit"], target["met"]) for target in values["targets"]]
    assert [limit for limit, _ in limits] == [1.05, 0.8, 0.3, 40e3, 1.05, 0]
    assert str(tmp_path) not in text


def test_images_are_those_of_cifar10(cifar10_dir):
    speed = importlib.import_module("speed")
    images = speed.read_images(cifar10_dir, count=3)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.float().std() > 10
