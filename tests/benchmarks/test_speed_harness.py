"""How speed is measured and told."""

import importlib
import json

import pytest


@pytest.fixture
def harness():
    return importlib.import_module("speed_harness")


def test_candidates_take_turns_and_are_prepared(harness):
    calls: list[str] = []
    candidates = [
        harness.Candidate("a", lambda: calls.append("a")),
        harness.Candidate("b", lambda: calls.append("b"), prepare=lambda: calls.append("before b")),
    ]
    found = harness.compare("title", "note", "s", candidates, harness.Effort(rounds=2, seconds=60, warmup=2))
    assert calls == ["a", "before b", "b"] * 4  # two rounds of warming up, then two
    assert [len(values) for values in found.samples.values()] == [2, 2]


def test_another_clock_can_be_told(harness):
    ticks = iter(range(0, 100, 3))
    candidate = harness.Candidate("a", list, units=2)
    effort = harness.Effort(rounds=2, seconds=60)
    found = harness.compare("title", "note", "s", [candidate], effort, lambda: next(ticks))
    assert found.samples["a"] == [1.5, 1.5]


def test_rounds_stop_at_three_when_time_is_up(harness):
    found = harness.compare("title", "note", "s", [harness.Candidate("a", list)], harness.Effort(rounds=9, seconds=0))
    assert len(found.samples["a"]) == 3


def test_the_ratio_is_taken_round_by_round(harness):
    found = harness.Comparison("title", "note", "s", {"ours": [1.0, 20.0, 3.0], "peer": [2.0, 40.0, 3.0]})
    assert found.ratio("peer") == (0.5, 0.5, 0.75)  # medians alone would give 3 / 3
    assert found.table().splitlines()[-1] == "| peer | 3 | 0.500 (0.500 to 0.750) | 3 |"


def test_any_two_candidates_can_be_set_against_each_other(harness):
    found = harness.Comparison("title", "note", "s", {"ours": [1.0], "a": [4.0], "b": [8.0]})
    assert found.ratio("b", of="a").median == 0.5


@pytest.mark.parametrize(("at_most", "measured", "met"), [(True, 1.0, True), (True, 1.1, False), (False, 1.1, True)])
def test_a_target_says_whether_it_was_met(harness, at_most, measured, met):
    target = harness.Target(what="it", limit=1.0, at_most=at_most, measured=measured)
    assert target.met is met
    assert target.row()[-1] == ("yes" if met else "**no**")


def test_findings_come_back_from_a_file(harness):
    findings = harness.Findings(
        targets=[
            harness.Target(what="a", limit=1, measured=2),
            harness.Target(
                what="b", limit=3, at_most=False, measured=4, quartiles=harness.Quartiles(low=3, median=4, high=5)
            ),
        ],
        comparisons=[harness.Comparison("title", "note", "/s", {"ours": [1.0, 2.0], "peer": [3.0, 4.0]})],
        tables=[harness.Table(title="t", note="n", heading=("", "value"), rows=[("row", 1234.5), ("other", "text")])],
        figures=["growth.png"],
    )
    again = harness.Findings.from_json(json.loads(json.dumps(findings.json())))
    assert [target.row() for target in again.targets] == [target.row() for target in findings.targets]
    assert again.comparisons == findings.comparisons
    assert again.markdown() == findings.markdown()
    assert "| row | 1,234 |" in again.markdown().splitlines()
    assert again.markdown().endswith("![growth.png](growth.png)")
