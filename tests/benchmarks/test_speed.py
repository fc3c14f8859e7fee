"""The speed benchmark as a whole: that every section reaches the report, and one can be measured anew."""

import importlib
import json
from dataclasses import replace

import pytest
import torch

# Newer Pythons warn when a process with threads forks; torch starts threads, and its DataLoader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def sections():
    return importlib.import_module("speed_sections")


@pytest.fixture
def speed(monkeypatch):
    module = importlib.import_module("speed")
    monkeypatch.setattr(torch, "set_num_threads", lambda _threads: None)  # the suite's own number stays
    monkeypatch.setattr(module, "read_images", lambda _data: torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8))
    return module


def stand_in(name):
    """For a section whose script has tests of its own: tells what it was asked for as if it had found that."""
    harness = importlib.import_module("speed_harness")

    def find(*asked, **options):
        table = harness.Table(title=f"Asked of {name}", note="", heading=("", ""), rows=[(str(asked), str(options))])
        return harness.Findings(tables=[table], targets=[harness.Target(what=name, limit=3, measured=1)])

    return find


@pytest.fixture
def _tiny(speed, sections, monkeypatch):
    """The quick plan at sizes that take no time."""
    step, effort = sections.StepSize(width=4, batch=4, image_size=16), sections.Effort(rounds=2, seconds=0)
    epoch = sections.EpochSize(step=step, images=16)
    plan = replace(
        sections.quick(),
        steps=((step, effort),),
        precisions=((step, effort),),
        work=effort,
        refresh=effort,
        refresh_width=4,
        views=sections.small_views(batch=8, peer_batch=2),
        views_effort=effort,
        losses=((sections.LossSize(batch=8), effort),),
        loss_memory=(8,),
        epochs=((epoch, effort),),
        large=sections.LargePlan(
            views=sections.large_views(batch=2, image_size=40),
            views_effort=effort,
            side=48,
            files=4,
            files_effort=effort,
            batch=2,
        ),
        memory=((step, "bf16", 1),),
        profile=(step,),
        product=64,
        probes="tiny probes",
        growth="tiny growth",
    )
    monkeypatch.setattr(speed, "quick", lambda: plan)
    memory = importlib.import_module("speed_memory")
    loss = importlib.import_module("speed_loss")
    monkeypatch.setattr(memory, "WAYS", dict(list(memory.WAYS.items())[:2]))  # processes take time to start
    monkeypatch.setattr(sections.speed_growth, "find_growth", stand_in("growth"))
    monkeypatch.setattr(sections.speed_probes, "find_probes", stand_in("probes"))
    monkeypatch.setattr(loss, "measure_loss", lambda *_, **__: loss.Cost(seconds=1, peak=1))


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_a_tiny_run_fills_the_report(speed, sections, tmp_path, capsys):
    out = tmp_path / "new" / "speed.md"
    speed.main(["--quick", "--threads", "1", "--out", str(out)])
    text, values = out.read_text(), json.loads(out.with_suffix(".json").read_text())["sections"]
    assert text in capsys.readouterr().out
    assert list(values) == list(sections.SECTIONS)
    assert "- command: `python benchmarks/speed/speed.py --out speed.md --quick --threads 1`" in text.splitlines()
    titles = ["Targets", *(section.title for section in sections.SECTIONS.values())]
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == titles
    for name, part in values.items():
        assert part["comparisons"] or part["tables"], name
        assert part["targets"], name
        for comparison in part["comparisons"]:
            assert f"### {comparison['title']}" in text.splitlines()
            assert all(len(taken) >= 2 and min(taken) > 0 for taken in comparison["samples"].values())
        assert all(f"### {table['title']}" in text.splitlines() for table in part["tables"])
    limits = {name: [target["limit"] for target in part["targets"]] for name, part in values.items()}
    assert limits["steps"] == [1.03, 1.03, 0.8, 1, 1, 0.3]  # the first two by precision
    assert limits["views"] == [40e3]
    assert limits["loss"] == [1]
    assert limits["small"] == [1, 1]
    assert limits["large"] == [8, 5, 10]
    assert limits["memory"] == [1.05, 0]
    assert limits["profile"] == [0.95]
    assert limits["probes"] == limits["growth"] == [3]
    asked = {name: values[name]["tables"][0]["rows"] for name in ("probes", "growth")}
    assert asked["probes"] == [["('tiny probes', None)", "{}"]]
    assert asked["growth"] == [[str(("tiny growth", out.parent)), "{'threads': 1}"]]


def fake_section(sections, title, found):
    return sections.Section(title=title, find=lambda _plan, _setting: sections.Findings(targets=[found()]))


@pytest.fixture
def fakes(speed, sections, monkeypatch):
    """Two sections that measure the number of times that they were called."""
    harness, calls = importlib.import_module("speed_harness"), []

    def target():
        calls.append(None)
        return harness.Target(what="calls", limit=10, measured=len(calls))

    made = {name: fake_section(sections, f"Part {name}", target) for name in ("first", "second")}
    monkeypatch.setattr(speed, "SECTIONS", made)
    return made


def measured(out):
    parts = json.loads(out.with_suffix(".json").read_text())["sections"]
    return {name: part["targets"][0]["measured"] for name, part in parts.items()}


@pytest.mark.usefixtures("fakes")
def test_one_section_is_measured_anew(speed, tmp_path, monkeypatch):
    out = tmp_path / "speed.md"
    speed.main(["--quick", "--only", "second", "--out", str(out)])
    assert measured(out) == {"second": 1}
    monkeypatch.setattr(speed, "_commit", lambda: "abcdef")
    speed.main(["--out", str(out), "--only", "first"])
    assert measured(out) == {"first": 2, "second": 1}
    text = out.read_text()
    assert text.index("## Part first") < text.index("## Part second")
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "abcdef" in rows["| first"]  # where each was measured
    assert "abcdef" not in rows["| second"]
    assert "--quick" in rows["| second"]
    assert "--quick" not in rows["| first"]
    speed.main(["--out", str(out)])
    assert measured(out) == {"first": 3, "second": 4}


def test_what_was_measured_is_kept_if_a_section_fails(speed, fakes, sections, tmp_path):
    def fails(_plan, _setting):
        raise RuntimeError("no")

    fakes["second"] = sections.Section(title="Part second", find=fails)
    with pytest.raises(RuntimeError, match="no"):
        speed.main(["--out", str(tmp_path / "speed.md")])
    assert measured(tmp_path / "speed.md") == {"first": 1}


@pytest.mark.usefixtures("fakes")
def test_an_unknown_section_is_refused(speed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        speed.main(["--out", str(tmp_path / "speed.md"), "--only", "first,third"])
    assert "--only knows no section third: name some of first, second" in capsys.readouterr().err


def test_sections_for_one_core_use_one_thread(sections, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(sections.cv2, "setNumThreads", used.append)
    setting = sections.Setting(images=torch.empty(0), data=None, folder=tmp_path, threads=3)
    for alone in (True, False):
        section = sections.Section(title="", find=lambda *_: sections.Findings(), one_thread=alone)
        section.measure(sections.quick(), setting)
    assert used == [1, 1, 3, 3]


def test_the_thorough_plan_measures_what_the_quick_one_does_and_the_full_width(sections):
    plan = sections.thorough()
    assert {size.width for size, _ in plan.steps} == {16, 64}
    assert {size.step.width for size, _ in plan.epochs} == {16, 64}
    assert all(2048 <= size.images <= 4096 for size, _ in plan.epochs)
    assert plan.compiled


def test_images_are_those_of_cifar10(cifar10_dir):
    images = importlib.import_module("speed").read_images(cifar10_dir, count=3)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.float().std() > 10
