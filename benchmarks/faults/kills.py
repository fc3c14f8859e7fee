"""Check that commands which are killed at any moment can be repeated and give the same results.

    python benchmarks/faults/kills.py --kills 500 --out docs/results/kills.jsonl

A trial starts a command and kills it after a random time, one to five times, and then runs it to its end. Its results
must equal those of an undisturbed command: bit-identical weights, rows of tables, pages. After a kill, no file with a
final name may be incomplete. SIGKILL goes to the process alone, as from the kernel when memory runs out, or to its
whole group. If a command runs in two processes, one of them is killed, and the other must exit within ten
seconds.
Processes are forked from this one, which has imported everything, so a trial takes seconds. --seed determines the times
of the kills. The script writes a line for each trial and prints a table.
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
"""Timeout of a command in seconds. It takes only a few, but the machine may be busy."""
MOST_KILLS = 5
"""Maximum number of kills in a trial."""
ORPHANED = 10.0
"""Seconds until a process whose partner was killed is killed, too."""


class Trial(NamedTuple):
    """Result of a trial."""

    command: str
    seed: int
    kills: int
    faults: list[str]
    seconds: float


def import_everything() -> None:
    """Import the modules of all commands, so that processes forked from this one start quickly."""
    import torch  # noqa: PLC0415  # slow to load

    torch.set_num_threads(1)
    from sdclr.cli.catalog import CATALOG  # noqa: PLC0415  # slow to load

    for entry in CATALOG.values():
        import_module(f"sdclr.cli.commands.{entry.module}")
        import_module(f"sdclr.cli.actions.{entry.module}")


def import_as(scenario: Scenario, ready: Path, place: Path) -> None:
    """Run a command once and import the modules that it loaded."""
    copy_needs(scenario, ready, place)
    modules = place.with_name("modules.json")
    with started(scenario, place, modules) as children:
        for child in children:
            ended(child, PATIENCE)
    for name in json.loads(modules.read_text()):
        with contextlib.suppress(Exception):  # some modules are created at run time and cannot be imported
            import_module(name)
    shutil.rmtree(place)


def start(arguments: Sequence[str], env: dict[str, str], said: Path, modules: Path | None = None) -> int:
    """Fork a process that runs a command in its own process group. Returns the process ID.

    Args:
        arguments: The command.
        env: Additional environment variables.
        said: File for its output.
        modules: File for the names of the modules that it loads.
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
    """Wait for a process. Returns its exit code, negative for a signal, or None if it still runs after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def end_group(child: int) -> None:
    """Kill the remaining processes of a process's group."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextlib.contextmanager
def started(scenario: Scenario, place: Path, modules: Path | None = None) -> Iterator[list[int]]:
    """Start the processes of a command, and kill those that are left at the end."""
    arguments = scenario.arguments(place)
    environs = environments(scenario.processes)
    children = [start(arguments, env, place / f"said-{n}.txt", modules) for n, env in enumerate(environs)]
    try:
        yield children
    finally:
        for child in children:
            end_group(child)


def to_the_end(scenario: Scenario, place: Path) -> tuple[float, list[str]]:
    """Run a command to its end. Returns its seconds and its faults."""
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
    """Start a command and kill it after some seconds. Returns whether it was still running, and its faults."""
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
                end_group(child)  # as torchrun does: an incomplete group waits for its partners
                ended(child, PATIENCE)
        if code:
            said = (place / f"said-{victim}.txt").read_text()[-1500:]
            faults.append(f"ended with {code} before it was killed: {said}")
    return code is None, faults + [f"torn after a kill: {what}" for what in _in_a_fork(torn, place)]


def trial(scenario: Scenario, seed: int, ready: Path, place: Path, whole: "Whole") -> Trial:
    """Kill a command up to five times, run it to its end, and compare its results.

    All trials use the same folder, because a page contains the paths of its images.
    """
    draw = random.Random(f"{scenario.name} {seed}")  # noqa: S311  # not for security
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
    """Duration and results of an undisturbed command."""

    seconds: float
    results: dict[str, str]


def undisturbed(scenario: Scenario, ready: Path, place: Path) -> Whole:
    """Run a command twice; both runs must give the same results.

    Raises:
        SystemExit: A command failed, or its results vary and cannot be compared.
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
    """Call a function in a forked process, because this process must not start threads.

    Raises:
        SystemExit: The function failed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(writing, "w") as pipe:
                try:
                    answer = {"value": function(*args)}
                except Exception:  # noqa: BLE001  # the other process reports it
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
    """Run trials until there are `kills` kills."""
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
        scenario = random.Random(number).choice(turns)  # noqa: S311  # not for security
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
