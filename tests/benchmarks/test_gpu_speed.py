"""The GPU benchmark on a CPU, at sizes that take no time: that it runs, resumes, and compares the same thing."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sdclr.encoders import EncoderConfig
from sdclr.views.parameters import ViewConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def load():
    """Imports scripts, which import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS / "speed"), str(BENCHMARKS / "gpu"), *sys.path])
        yield importlib.import_module


@pytest.fixture(autouse=True)
def _numerics_as_before(runs):
    yield
    runs.set_numerics("bf16", tuned=False)


@pytest.fixture(scope="module")
def runs(load):
    return load("gpu_runs")


@pytest.fixture(scope="module")
def sections(load):
    return load("gpu_sections")


@pytest.fixture(scope="module")
def harness(load):
    return load("speed_harness")


@pytest.fixture(scope="module")
def speed(load):  # noqa: ARG001  # the script's own imports need it
    """`speed` is the name of the other benchmark's script."""
    spec = importlib.util.spec_from_file_location("gpu_speed", BENCHMARKS / "gpu" / "speed.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_speed"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_speed"]


@pytest.fixture
def job(runs):
    return runs.Job(encoder=EncoderConfig(name="resnet18", width=4), views=ViewConfig(image_size=16), batch=8)


@pytest.fixture
def images():
    return torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8)


def gradients(steps, pair) -> dict[str, torch.Tensor]:
    steps.prepare()
    steps.differentiate(*pair)
    return {name: parameter.grad for name, parameter in steps.objective.named_parameters()}


def test_three_passes_leave_the_gradients_of_one(runs, job, images):
    arm = runs.Arm(name="one", precision="float32")
    pair, other = torch.rand(2, 2, 8, 3, 16, 16)
    one, elsewhere = (gradients(runs.Steps(arm, job, images), views) for views in (pair, other))
    three = gradients(runs.Steps(replace(arm, forwards=3), job, images), pair)
    for name, gradient in one.items():
        assert (three[name] - gradient).norm() < 1e-3 * (elsewhere[name] - gradient).norm(), name


def test_no_gradient_is_lost_in_half_precision(runs, job, images):
    """A cast that autocast keeps of a pass without gradient would leave its weight without one."""
    arm = runs.Arm(name="three", forwards=3)
    pair = torch.rand(2, 8, 3, 16, 16)
    three = gradients(runs.Steps(arm, job, images), pair)
    one = gradients(runs.Steps(replace(arm, forwards=1), job, images), pair)
    for name, gradient in one.items():
        assert three[name].norm() > 0.5 * gradient.norm(), name


def test_arms_differ_in_nothing_but_what_they_say(runs, job, images):
    arms = [runs.Arm(name="a"), runs.Arm(name="b", method="simclr"), runs.Arm(name="c", forwards=3)]
    first, *others = [runs.Steps(arm, job, images) for arm in arms]
    assert [steps.objective.competitor is None for steps in (first, *others)] == [False, True, False]
    pair = next(first.pairs)
    for steps in others:
        for mine, theirs in zip(
            first.objective.network.parameters(), steps.objective.network.parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(pair, next(steps.pairs), strict=True))


def test_a_step_moves_the_weights_and_draws_new_views(runs, job, images):
    steps = runs.Steps(runs.Arm(name="a"), job, images)
    weight = steps.objective.network.encoder.backbone.conv1.weight
    before, first = weight.detach().clone(), next(steps.pairs)[0]
    steps.take(4)  # into the second epoch
    assert not torch.equal(weight, before)
    assert not torch.equal(next(steps.pairs)[0], first)


def test_fixed_views_stay(runs, job, images):
    steps = runs.Steps(runs.Arm(name="a", views="fixed"), job, images)
    assert torch.equal(next(steps.pairs)[0], next(steps.pairs)[0])


@pytest.mark.parametrize("precision", ["bf16", "tf32", "float32"])
def test_an_arm_sets_its_own_number_format(runs, job, images, precision):
    steps = runs.Steps(runs.Arm(name="a", precision=precision), job, images)
    runs.set_numerics("float32" if precision != "float32" else "tf32", tuned=False)  # another arm's
    steps.candidate(3).prepare()
    assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
    assert torch.backends.cudnn.allow_tf32 is (precision != "float32")
    assert torch.backends.cudnn.benchmark
    with steps.precision():
        assert torch.is_autocast_enabled("cpu") is (precision == "bf16")


def test_operations_are_those_of_the_layers(runs, job, images):
    steps = runs.Steps(runs.Arm(name="a", method="simclr"), job, images)
    counted = []

    def count(module, _inputs, output):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            counted.append(2 * output.numel() * module.weight[0].numel())

    for module in steps.objective.modules():
        module.register_forward_hook(count)
    found = steps.flops()
    # Backward takes twice the forward pass, but for the images, which need no gradient; the loss is small beside it.
    first = counted[0]
    expected = 3 * sum(counted) - 2 * first
    assert expected <= found < 1.01 * expected


def test_lightly_takes_the_same_step(runs, job, images):
    pytest.importorskip("lightly")
    theirs = runs.LightlySteps(runs.Arm(name="lightly", method="simclr", precision="float32"), job, images)
    weight = theirs.network[0].backbone.conv1.weight
    before = weight.detach().clone()
    theirs.take(2)
    assert not torch.equal(weight, before)
    pair = [view.contiguous(memory_format=torch.channels_last) for view in next(theirs.pairs)]
    with torch.no_grad():
        outputs = [theirs.network(view) for view in pair]
        ours = importlib.import_module("sdclr").nt_xent(*outputs, runs.TEMPERATURE)
        assert theirs.loss(*outputs) == pytest.approx(float(ours), rel=1e-4)


def test_a_loss_too_large_for_the_device_is_said_to_be(sections, harness, monkeypatch):
    effort = harness.Effort(rounds=1, seconds=0)
    a, b = torch.randn(2, 8, 4, requires_grad=True)
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    seconds, peak = sections.measure_loss(a, b, tiled=True, effort=effort)
    assert seconds > 0
    assert peak is None

    def too_large(*_args, **_options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(sections, "nt_xent", too_large)
    assert sections.measure_loss(a, b, tiled=False, effort=effort) is None


@pytest.fixture
def tiny(speed, job, harness):
    """A plan that compiles nothing to machine code."""
    large = replace(job, views=ViewConfig(image_size=40, blur=0.5))
    effort = harness.Effort(rounds=2, seconds=0)
    plan = replace(speed.quick(CPU), small=job, large=replace(large, batch=2), images=16, steps=1, effort=effort)
    return replace(plan, product=8, losses=(16,), backend="eager")


@pytest.mark.slow
def test_every_section_fills_its_part_of_the_report(speed, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "quick", lambda _device: tiny)
    monkeypatch.delitem(speed.SECTIONS, "graphs")  # on a CPU the same as `compiled`, once more
    out = tmp_path / "new" / "speed.json"
    speed.main(["--device", "cpu", "--quick", "--out", str(out)])
    values, text = json.loads(out.read_text()), out.with_suffix(".md").read_text()
    assert not values["trouble"]
    assert values["sections"].keys() == speed.SECTIONS.keys()
    assert text in capsys.readouterr().out
    assert "Not measured" not in text
    assert "these figures tell nothing" in text
    targets = {target["what"]: target["measured"] for target in values["sections"]["compiled"]["findings"]["targets"]}
    assert targets["Graph breaks and recompilations, compiled"] == 0
    for name, entry in values["sections"].items():
        findings = entry["findings"]
        assert findings["tables"], name
        for comparison in findings["comparisons"]:
            assert all(len(taken) == 2 and min(taken) > 0 for taken in comparison["samples"].values())
    assert str(tmp_path) not in out.read_text()


def fake(speed, harness, calls, name, *, fails=False):
    def measure(_bench):
        calls.append(name)
        if fails:
            raise RuntimeError("no such kernel\nand more")
        return harness.Findings(targets=[harness.Target(what=name, limit=1, measured=0.5)])

    return speed.Section(f"Title of {name}", measure, 1)


def test_a_second_call_takes_what_is_missing(speed, harness, tmp_path, monkeypatch):
    calls: list[str] = []
    good, bad, late = (fake(speed, harness, calls, name, fails=name == "bad") for name in ("good", "bad", "late"))
    monkeypatch.setattr(speed, "SECTIONS", {"bad": bad, "good": good, "late": late})
    command = ["--device", "cpu", "--quick", "--out", str(tmp_path / "speed.json")]
    speed.main([*command, "--only", "bad", "good"])
    assert calls == ["bad", "good"]
    text = (tmp_path / "speed.md").read_text()
    assert "- Title of bad: RuntimeError: no such kernel\n" in text
    assert "- Title of late: not begun" in text
    calls.clear()
    monkeypatch.setitem(speed.SECTIONS, "bad", fake(speed, harness, calls, "bad"))
    speed.main(command)
    assert calls == ["late", "bad"]  # what went wrong before holds nothing up
    assert "Not measured" not in (tmp_path / "speed.md").read_text()
    calls.clear()
    speed.main(command)
    assert calls == []
    speed.main([*command, "--again", "good"])
    assert calls == ["good"]


def test_what_was_cut_off_is_known_and_nothing_is_lost(speed, harness, tmp_path, monkeypatch):
    calls: list[str] = []

    def dies(_bench):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        speed, "SECTIONS", {"good": fake(speed, harness, calls, "good"), "hangs": (speed.Section("Hangs", dies, 1))}
    )
    out = tmp_path / "speed.json"
    with pytest.raises(KeyboardInterrupt):
        speed.main(["--device", "cpu", "--quick", "--out", str(out)])
    assert json.loads(out.read_text())["sections"].keys() == {"good"}
    assert "- Hangs: cut off" in out.with_suffix(".md").read_text()


def test_another_device_or_code_is_measured_anew(speed, harness, tmp_path):
    path, findings = tmp_path / "speed.json", harness.Findings()
    speed.Journal(path, {"code": "a"}).put("good", findings)
    assert speed.Journal(path, {"code": "a"}).order(["good"]) == []
    other = speed.Journal(path, {"code": "b"})
    assert other.order(["good"]) == ["good"]
    other.begin("good")
    assert speed.Journal(path, {"code": "a"}).taken("good")  # until there is something to put in its place


def test_no_section_is_begun_that_time_does_not_suffice_for(speed, harness, tmp_path, monkeypatch, capsys):
    calls: list[str] = []
    monkeypatch.setattr(speed, "SECTIONS", {"good": fake(speed, harness, calls, "good")})
    speed.main(["--device", "cpu", "--quick", "--minutes", "0", "--out", str(tmp_path / "speed.json")])
    assert calls == []
    assert "the same command goes on with it" in capsys.readouterr().err


def test_a_file_of_something_else_is_left_alone(speed, tmp_path):
    path = tmp_path / "speed.json"
    path.write_text("[1, 2]")
    with pytest.raises(SystemExit, match=r"speed.json is no result of this script"):
        speed.main(["--device", "cpu", "--quick", "--out", str(path)])
    assert path.read_text() == "[1, 2]"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_how_to_rehearse(speed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        speed.main(["--out", str(tmp_path / "speed.json")])
    assert "--device cpu --quick" in capsys.readouterr().err
