"""Every reader gets hostile variants of valid files: it reads or refuses them, and does nothing else.

`python benchmarks/fuzz/campaign.py` reads as many as it is asked to, and prints what came of them.
"""

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz"
USUAL = 100
"""Inputs in the fast suite."""
INPUTS = {"export: description": 15, "export: weights": 15, "marks applied": 80, "scores Parquet": 0}
"""The same for targets that take long."""


@pytest.fixture(scope="module")
def fuzz() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FUZZ), *sys.path])
        names = ("campaign", "fuzz_mutate", "fuzz_targets", "fuzz_watch")
        return {name: importlib.import_module(name) for name in names}


def names() -> list[str]:
    """All targets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FUZZ), *sys.path])
        targets = importlib.import_module("fuzz_targets").TARGETS
    return list(targets)


def faults(fuzz: Any, name: str, folder: Path, inputs: int, seed: int) -> list[str]:
    """What went wrong with so many inputs, the first of which are the valid files themselves."""
    target = fuzz["fuzz_targets"].TARGETS[name]
    oracle = fuzz["campaign"].Oracle(target, folder)
    draw, seeds = random.Random(seed), target.seeds()
    for data in seeds:
        oracle.read(data)
    assert oracle.counts["read"] > 0, "no valid file can be read"
    for _ in range(inputs):
        data = fuzz["fuzz_mutate"].mutate(draw.choice(seeds), draw, seeds, parts=target.parts, tokens=target.tokens)
        oracle.read(data)
    oracle.look()
    assert oracle.inputs == inputs + len(seeds)
    return [fault["what"] for fault in oracle.faults.values() if not fault["what"].startswith("memory")]


@pytest.mark.parametrize("name", [name for name in names() if INPUTS.get(name) != 0])
def test_hostile_files_are_read_or_refused(
    fuzz: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert faults(fuzz, name, tmp_path, INPUTS.get(name, USUAL), seed=0) == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", names())
def test_many_hostile_files_are_read_or_refused(
    fuzz: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert faults(fuzz, name, tmp_path, 3 * (INPUTS.get(name) or USUAL), seed=1) == []


@pytest.mark.slow
def test_a_campaign_reads_what_it_is_asked_to_and_survives_what_ends_its_child(tmp_path: Path) -> None:
    words = [sys.executable, str(FUZZ / "campaign.py"), "--blind", "--target", "image PPM", "--inputs", "300"]
    subprocess.run([*words, "--out", str(tmp_path)], check=True, capture_output=True, timeout=300)
    (found,) = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert (found["target"], found["inputs"], found["faults"]) == ("image PPM", 300, [])
    assert sum(found["outcomes"].values()) == 300


class Misbehaving:
    """A target that does what none may."""

    name, suffix = "misbehaving", ".txt"

    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def run(self, path: Path) -> None:
        what = path.read_bytes()
        if what == b"raise":
            raise KeyError("x")
        if what == b"write":
            (self.outside / "written").write_text("x")
        if what == b"start":
            subprocess.run(["true"], check=True)
        if what == b"unpickle":
            importlib.import_module("pickle").loads(b"cposix\ngetpid\n)R.")


@pytest.mark.parametrize(
    ("what", "found"),
    [(b"raise", "KeyError"), (b"write", "did write"), (b"start", "did subprocess.Popen"), (b"unpickle", "did pickle")],
)
def test_the_oracle_sees_what_may_not_be(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: bytes, found: str
) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    monkeypatch.setattr(fuzz["campaign"], "MEMORY", 2**40)  # the test process holds what other tests have loaded
    oracle = fuzz["campaign"].Oracle(Misbehaving(outside), inside)
    monkeypatch.chdir(inside / "work")
    assert oracle.read(b"fine") == "read"
    assert not oracle.faults
    oracle.read(what)
    assert any(fault.startswith(found) for fault in oracle.faults)


def test_mutation_depends_on_its_seed_alone(fuzz: Any) -> None:
    for target in fuzz["fuzz_targets"].TARGETS.values():
        if target.name == "scores Parquet":  # its valid file takes a while to make
            continue
        seeds = target.seeds()
        one, other = (
            [fuzz["fuzz_mutate"].mutate(seeds[0], draw, seeds, parts=target.parts) for _ in range(20)]
            for draw in (random.Random(3), random.Random(3))
        )
        assert one == other
        assert len(set(one)) > 10
