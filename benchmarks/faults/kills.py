"""Whether commands that are killed at any moment go on as if they had not been.

    python benchmarks/faults/kills.py --kills 500 --out docs/results/kills.jsonl

A trial starts a command, kills it after a random time, and starts it again: one to five times, and then to its end.
What it has written then equals what an undisturbed command writes: weights to the bit, rows of tables, pages. After a
kill, no file under its final name may be torn. SIGKILL goes to the process alone, as of the kernel when memory runs
out, or to its whole group. Where two processes work together, it goes to one of them; the other gets ten seconds to
end without being killed.
Processes are forked from this one, which has everything imported, so that a trial takes seconds. Moments follow from
--seed. Writes a line for each trial and prints a table.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from scenarios import Scenario, copy_needs, environments, prepare, results, scenarios, shrink_the_paper, torn
from scene import do

PATIENCE = 600.0
"""Seconds that a command gets: longer, and it hangs. It takes a few, but the machine may be busy."""
MOST_KILLS = 5
"""Times that a command is killed in a trial, at most."""
ORPHANED = 10.0
"""Seconds that a process gets whose partner was killed, until it is killed, too."""


class Trial(NamedTuple):
    """What came of a command that was killed."""

    command: str
    seed: int
    kills: int
    faults: list[str]
    seconds: float


def import_everything() -> None:
    """Load what commands load, so that processes forked from this one start at once."""
    import torch  # noqa: PLC0415  # slow to load, or a change of its own

    torch.set_num_threads(1)
    from sdclr.cli.catalog import CATALOG  # noqa: PLC0415  # slow to load, or a change of its own

    for entry in CATALOG.values():
        import_module(f"sdclr.cli.commands.{entry.module}")
        import_module(f"sdclr.cli.actions.{entry.module}")


def import_as(scenario: Scenario, ready: Path, place: Path) -> None:
    """Run a command once and load what it has loaded, here."""
    copy_needs(scenario, ready, place)
    modules = place.with_name("modules.json")
    with started(scenario, place, modules) as children:
        for child in children:
            ended(child, PATIENCE)
    for name in json.loads(modules.read_text()):
        with contextlib.suppress(Exception):  # some are made by others, under names of their own
            import_module(name)
    shutil.rmtree(place)


def start(arguments: Sequence[str], env: dict[str, str], said: Path, modules: Path | None = None) -> int:
    """Fork a process that runs a command in a group of its own; its number.

    Args:
        arguments: The command.
        env: Variables of its own.
        said: Where its output goes.
        modules: Where the names of the modules go that it has loaded.
    """
    child = os.fork()
    if child:
        return child
    code = 71
    try:
        os.setpgid(0, 0)
        os.environ.update(env)
        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            before = set(sys.modules)
            code, text = do(list(arguments))
            if modules is not None:
                modules.write_text(json.dumps([name for name in sys.modules if name not in before]))
            file.write(text)
    finally:
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a process within so many seconds, negative for a signal; None if it goes on."""
    until = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def end_group(child: int) -> None:
    """Kill what is left of a process's group."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextlib.contextmanager
def started(scenario: Scenario, place: Path, modules: Path | None = None) -> Iterator[list[int]]:
    """The processes of a command, of which none is left afterwards."""
    arguments = scenario.arguments(place)
    environs = environments(scenario.processes)
    children = [start(arguments, env, place / f"said-{n}.txt", modules) for n, env in enumerate(environs)]
    try:
        yield children
    finally:
        for child in children:
            end_group(child)


def to_the_end(scenario: Scenario, place: Path) -> tuple[float, list[str]]:
    """Let a command come to its end: seconds, and what went wrong."""
    began = time.monotonic()
    with started(scenario, place) as children:
        codes = [ended(child, PATIENCE) for child in children]
        for child, code in zip(children, codes, strict=True):
            if code is None:
                end_group(child)
                ended(child, PATIENCE)
    faults = []
    for number, code in enumerate(codes):
        if code:
            said = (place / f"said-{number}.txt").read_text()[-1500:]
            faults.append(f"process {number} ended with {code}: {said}")
        elif code is None:
            faults.append(f"process {number} did not end in {PATIENCE:.0f} s")
    return time.monotonic() - began, faults


def kill_once(scenario: Scenario, place: Path, after: float, draw: random.Random) -> tuple[bool, list[str]]:
    """Start a command and kill it after some seconds: whether it was still there, and what went wrong."""
    faults = []
    with started(scenario, place) as children:
        victim = draw.randrange(len(children))
        whole_group = draw.random() < 0.5
        code = ended(children[victim], after)
        if code is None:
            if whole_group:
                end_group(children[victim])
            else:
                os.kill(children[victim], signal.SIGKILL)
            ended(children[victim], PATIENCE)
        for child in children:
            if child != children[victim] and ended(child, ORPHANED if code is None else PATIENCE) is None:
                end_group(child)  # as torchrun does: a group that has not formed yet waits for its partners
                ended(child, PATIENCE)
        if code:
            said = (place / f"said-{victim}.txt").read_text()[-1500:]
            faults.append(f"ended with {code} before it was killed: {said}")
    return code is None, faults + [f"torn after a kill: {what}" for what in _in_a_fork(torn, place)]


def trial(scenario: Scenario, seed: int, ready: Path, place: Path, whole: "Whole") -> Trial:
    """Kill a command up to five times, let it end, and compare what it has written.

    All trials are made in the same folder: a page holds where its images lie.
    """
    draw = random.Random(f"{scenario.name} {seed}")  # noqa: S311  # moments, not secrets
    began = time.monotonic()
    copy_needs(scenario, ready, place)
    faults: list[str] = []
    kills = 0
    for _ in range(draw.randint(1, MOST_KILLS)):
        hit, found = kill_once(scenario, place, draw.uniform(0.0, whole.seconds), draw)
        faults += found
        kills += hit
        if not hit:
            break
    faults += to_the_end(scenario, place)[1]
    found = _in_a_fork(results, scenario, place)
    for name in sorted(found.keys() | whole.results.keys()):
        if found.get(name) != whole.results.get(name):
            kind = "is missing" if name not in found else "is too many" if name not in whole.results else "differs"
            faults.append(f"{name} {kind}")
    if faults:
        place.rename(place.with_name(f"faulty-{seed}"))
    else:
        shutil.rmtree(place)
    faults = [fault.replace(str(place), "FOLDER") for fault in faults]
    return Trial(scenario.name, seed, kills, faults, round(time.monotonic() - began, 2))


class Whole(NamedTuple):
    """What an undisturbed command takes and writes."""

    seconds: float
    results: dict[str, str]


def undisturbed(scenario: Scenario, ready: Path, place: Path) -> Whole:
    """Run a command twice: both must write the same.

    Raises:
        SystemExit: A command failed, or its results vary, so that nothing could be compared.
    """
    found = []
    import_as(scenario, ready, place)
    for _ in range(2):
        copy_needs(scenario, ready, place)
        seconds, faults = to_the_end(scenario, place)
        if faults:
            raise SystemExit(f"{scenario.name}: {faults}")
        found.append(Whole(seconds, _in_a_fork(results, scenario, place)))
        shutil.rmtree(place)
    first, second = found
    names = first.results.keys() | second.results.keys()
    varying = sorted(name for name in names if first.results.get(name) != second.results.get(name))
    if varying or not names:
        raise SystemExit(f"{scenario.name}: two undisturbed commands differ in {varying or 'everything: no results'}")
    print(f"{scenario.name}: {second.seconds:.1f} s, {len(second.results)} files", flush=True)
    return second


def _in_a_fork(function: Any, *args: Any) -> Any:
    """What a function gives, computed in a forked process: this one must start no threads.

    Raises:
        SystemExit: The function has failed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(writing, "w") as pipe:
                try:
                    answer = {"value": function(*args)}
                except Exception:  # noqa: BLE001  # whatever it is, the other process tells it
                    answer = {"failed": traceback.format_exc()}
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text)
    if "failed" in answer:
        raise SystemExit(f"{function.__name__}: {answer['failed']}")
    return answer["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="the first trial's; the others follow")
    parser.add_argument("--only", nargs="*", help="names of commands; by default all")
    parser.add_argument("--out", type=Path, help="a file of one JSON object a line, to which trials are added")
    parser.add_argument("--keep", type=Path, help="a folder for what trials with faults leave")
    options = parser.parse_args()
    data = os.environ.get("SDCLR_DATA")
    wanted = [
        one for one in scenarios(Path(data) / "data" if data else None) if not options.only or one.name in options.only
    ]
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        found = run(wanted, options.kills, options.seed, Path(name).resolve(), out=options.out)
        if options.keep is not None:
            shutil.copytree(Path(name) / "trials", options.keep, symlinks=True)
    table(found)
    if any(one.faults for one in found):
        sys.exit(1)


def run(wanted: Sequence[Scenario], kills: int, seed: int, place: Path, *, out: Path | None = None) -> list[Trial]:
    """Trials until so many kills have hit."""
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    import_everything()
    shrink_the_paper()
    ready = place / "ready"
    ready.mkdir(parents=True)
    command = prepare(ready)
    child = start(command, {}, place / "said.txt")
    if ended(child, PATIENCE):
        raise SystemExit(f"sdclr {' '.join(command)} failed: {(place / 'said.txt').read_text()}")
    (place / "trials").mkdir()
    work = place / "trials" / "work"
    wholes = {scenario.name: undisturbed(scenario, ready, work) for scenario in wanted}
    turns = [scenario for scenario in wanted for _ in range(scenario.weight)]
    found: list[Trial] = []
    while sum(one.kills for one in found) < kills:
        number = seed + len(found)
        scenario = random.Random(number).choice(turns)  # noqa: S311  # a turn, not a secret
        found.append(trial(scenario, number, ready, work, wholes[scenario.name]))
        if found[-1].faults:
            print(f"{found[-1]}", flush=True)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(found[-1]._asdict()) + "\n")
    return found


def table(found: Sequence[Trial]) -> None:
    """Print trials, kills and faults by command."""
    by_name: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        by_name[one.command].update(trials=1, kills=one.kills, faulty=int(bool(one.faults)))
    print("| command | trials | kills | trials with faults |\n|---|---:|---:|---:|")
    for name, counts in by_name.items():
        print(f"| {name} | {counts['trials']} | {counts['kills']} | {counts['faulty']} |")
    total = sum(by_name.values(), Counter[str]())
    print(f"| all | {total['trials']} | {total['kills']} | {total['faulty']} |")


if __name__ == "__main__":
    main()
