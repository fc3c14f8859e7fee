"""Fuzz every reader of files. A hostile variant of a valid file may only be read or give an error message of one line.

    pip install atheris
    nice -n 15 python benchmarks/fuzz/campaign.py --inputs 20000 --out runs/fuzz

With atheris, the coverage of Python code guides the inputs: libFuzzer changes half of them, and `fuzz_mutate` the other
half, in part with corrected checksums. `--blind` does not need atheris and changes only the valid files.

One child process at a time reads the inputs. A fault is any exception except `InputError` and its subclasses, a message
of several lines, more than `SLOW` seconds, more than `MEMORY` bytes, the end of the process, a write outside its
folder, a connection, a program, or unpickling. Each fault is stored once with its input, and the campaign continues.
"""

import argparse
import hashlib
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

SLOW: Final = 10.0
"""Maximum computing time of an input in seconds. Wall time says little on a busy machine."""
MEMORY: Final = 2**30
"""Maximum memory of the process in bytes, including torch and all libraries."""
ADDRESSES: Final = 16 * 2**30
"""Maximum address space in bytes, so that no input exhausts the machine."""
STUCK: Final = 40.0
"""Computing time in seconds without a new input after which the child is killed."""
ASLEEP: Final = 900.0
"""The same in wall time, for a child that waits for something."""
MESSAGE: Final = 2_000
"""Maximum number of characters of a message."""
EVERY: Final = 500
"""Number of inputs between two checks of the surrounding folders, each with a write of the state."""


class Oracle:
    """Runs one target on inputs and detects faults."""

    def __init__(self, target: Any, folder: Path, counter: mmap.mmap | None = None) -> None:
        from fuzz_seeds import collection

        self.target, self.folder = target, folder
        self.work = folder / "work"
        self.counts: Counter[str] = Counter()
        self.faults: dict[str, dict[str, Any]] = {}
        self.slowest = self.largest = 0.0
        self._counter = counter
        self._begun = time.monotonic()
        for name in ("work", "home", "tmp", "faults"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        collection(self.work)
        self._around = _listing(folder)

    @property
    def inputs(self) -> int:
        """Number of inputs read."""
        return self.counts.total()

    def read(self, data: bytes) -> str:
        """Read one input in the current folder and return the outcome."""
        from fuzz_watch import watching

        path = self.work / f"given{self.target.suffix}"
        path.write_bytes(data)
        begin = time.process_time()
        with watching(self.folder) as watch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = self._outcome(path, data)
        seconds = time.process_time() - begin
        self.counts[outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if seconds > SLOW:
            self.fault(f"slow: {seconds:.0f} s", data)
        for found in watch.found[:3]:
            self.fault(f"did {found}", data)
        self._check_memory(data)
        if self.inputs % EVERY == 0:
            self.look(data)
        if self._counter is not None:
            self._counter[:8] = self.inputs.to_bytes(8, "little")
        return outcome

    def _outcome(self, path: Path, data: bytes) -> str:
        from sdclr.errors import InputError

        try:
            self.target.run(path)
        except InputError as error:
            message = str(error)
            if "\n" in message:
                self.fault("message of several lines", data, message)
            if len(message) > MESSAGE:
                self.fault("message of thousands of characters", data, message[:MESSAGE])
            return type(error).__name__
        except Exception as error:  # noqa: BLE001  # these are the faults to find
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/sdclr/" in frame.filename]
            place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            self.fault(f"{type(error).__name__}{place}", data, traceback.format_exc())
            return "fault"
        return "read"

    def _check_memory(self, data: bytes) -> None:
        peak = _peak()
        self.largest = max(self.largest, peak)
        if peak > MEMORY:
            self.fault(f"memory: {peak / 2**20:.0f} MiB", data)
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def look(self, data: bytes = b"") -> None:
        """Check the surrounding folders for new files, and write the state."""
        for path in _listing(self.folder) - self._around:
            self.fault(f"left {path}", data)
        self._around = _listing(self.folder)
        self.save()

    def fault(self, name: str, data: bytes, details: str = "") -> None:
        """Store a fault and its first input."""
        kind = name.split(": ", maxsplit=1)[0] if name.startswith(("slow", "memory")) else name
        if kind in self.faults:
            self.faults[kind]["times"] += 1
            return
        file = hashlib.sha256(kind.encode()).hexdigest()[:12]
        (self.folder / "faults" / f"{file}{self.target.suffix}").write_bytes(data)
        (self.folder / "faults" / f"{file}.log").write_text(
            f"{name}\n{details}\n", encoding="utf-8", errors="surrogateescape"
        )
        self.faults[kind] = {"what": name, "times": 1, "file": f"{file}{self.target.suffix}"}
        self.save()

    def state(self) -> dict[str, Any]:
        """State for the report."""
        return {
            "target": self.target.name,
            "inputs": self.inputs,
            "seconds": round(time.monotonic() - self._begun, 1),
            "outcomes": dict(self.counts.most_common()),
            "slowest_s": round(self.slowest, 3),
            "memory_mib": round(self.largest / 2**20),
            "faults": list(self.faults.values()),
        }

    def save(self) -> None:
        """Write the state."""
        aside = self.folder / "state.tmp"
        aside.write_text(json.dumps(self.state()))
        aside.replace(self.folder / "state.json")


def _listing(folder: Path) -> set[str]:
    """All paths outside the target's working folder, except those that the campaign itself writes."""
    work, kept = folder / "work", {"state.json", "state.tmp", "counter", "child.log", "corpus", "faults"}
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_relative_to(work)
        and path.relative_to(folder).parts[0] not in kept
        and "torchinductor" not in path.name  # torch creates this folder
    }


def _peak() -> float:
    """Peak memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) * 1024
    return 0.0


def child(name: str, folder: Path, runs: int, seed: int, *, blind: bool) -> None:
    """Read `runs` inputs of one target."""
    with (folder / "counter").open("r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if blind:
        from fuzz_targets import TARGETS

        oracle = _ready(TARGETS[name], folder, counter)
        _blindly(oracle, runs, seed)
        return
    import atheris

    followed = ["sdclr", "tomllib", "csv", "json", *(["PIL"] if name.startswith("image ") else [])]
    with atheris.instrument_imports(include=followed, enable_loader_override=False):
        from fuzz_targets import TARGETS
    target = TARGETS[name]
    from fuzz_mutate import LARGEST, mutate

    oracle, seeds = _ready(target, folder, counter), target.seeds()
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(data)

    def test(data: bytes) -> None:
        if oracle.inputs < runs:
            oracle.read(data)
            if oracle.inputs == runs:
                oracle.look(data)

    def change(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.5:
            return atheris.Mutate(data, most)
        return mutate(data, random, seeds, parts=target.parts, tokens=target.tokens)[:most]

    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={LARGEST}", "-timeout=1200", "-rss_limit_mb=0"]
    options += [
        "-malloc_limit_mb=0",
        "-print_final_stats=0",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
        "-handle_int=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test, custom_mutator=change)
    atheris.Fuzz()


def _ready(target: Any, folder: Path, counter: mmap.mmap) -> Oracle:
    """Create the oracle, load what targets import late, and limit the memory."""
    oracle = Oracle(target, folder, counter)
    os.chdir(oracle.work)
    for data in target.seeds():
        path = oracle.work / f"given{target.suffix}"
        path.write_bytes(data)
        with suppress(Exception):  # the same input is read again and checked later
            target.run(path)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    return oracle


def _blindly(oracle: Oracle, runs: int, seed: int) -> None:
    from fuzz_mutate import mutate

    random, target = Random(seed), oracle.target
    seeds = target.seeds()
    for data in seeds[:runs]:
        oracle.read(data)
    while oracle.inputs < runs:
        oracle.read(mutate(random.choice(seeds), random, seeds, parts=target.parts, tokens=target.tokens))
    oracle.look()


def campaign(name: str, inputs: int, seed: int, out: Path, *, blind: bool) -> dict[str, Any]:
    """Fuzz one target in child processes, one after the other, until `inputs` inputs are read."""
    total: dict[str, Any] = {"target": name, "inputs": 0, "seconds": 0.0, "outcomes": {}, "slowest_s": 0, "faults": []}
    while total["inputs"] < inputs:
        with tempfile.TemporaryDirectory(prefix="sdclr-fuzz-") as place:
            folder = Path(place)
            (folder / "counter").write_bytes(bytes(8))
            ended = _supervised(name, folder, inputs - total["inputs"], seed, blind=blind)
            state = json.loads((folder / "state.json").read_text()) if (folder / "state.json").is_file() else None
            if state is None:
                raise SystemExit(f"{name}: the child read nothing ({ended}); run it with --child to see why")
            done = max(state["inputs"], int.from_bytes((folder / "counter").read_bytes(), "little"))
            if ended is not None:
                given = next((folder / "work").glob("given.*"))
                file = f"{hashlib.sha256(given.read_bytes()).hexdigest()[:12]}{given.suffix}"
                (folder / "faults" / file).write_bytes(given.read_bytes())
                state["faults"].append({"what": ended, "times": 1, "file": file})
                done += 1
            _keep(folder / "faults", out / "faults" / name.replace(" ", "_"))
        total["inputs"] += done
        total["seconds"] = round(total["seconds"] + state["seconds"], 1)
        total["outcomes"] = dict((Counter(total["outcomes"]) + Counter(state["outcomes"])).most_common())
        total["slowest_s"] = max(total["slowest_s"], state["slowest_s"])
        total["memory_mib"] = max(total.get("memory_mib", 0), state["memory_mib"])
        for fault in state["faults"]:
            known = next((one for one in total["faults"] if one["what"] == fault["what"]), None)
            if known is None:
                total["faults"].append(fault)
            else:
                known["times"] += fault["times"]
        seed += 1
    return total


def _supervised(name: str, folder: Path, runs: int, seed: int, *, blind: bool) -> str | None:
    """Run a child process. Returns the cause if it ended before its last input, otherwise None."""
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "XDG_CACHE_HOME": str(folder / "home" / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = [
        sys.executable,
        __file__,
        "--child",
        name,
        str(folder),
        str(runs),
        str(seed),
        *(["--blind"] if blind else []),
    ]
    with (folder / "child.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        last, computed, since = 0, 0.0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            count, used = int.from_bytes((folder / "counter").read_bytes(), "little"), _computed(process.pid)
            if count != last:
                last, computed, since = count, used, time.monotonic()
            elif last and (used - computed > STUCK or time.monotonic() - since > ASLEEP):
                process.kill()
                process.wait()
                return f"no end within {STUCK:.0f} s"
    if process.returncode == 0 or last >= runs:
        return None
    if not (folder / "state.json").is_file():
        sys.stderr.write((folder / "child.log").read_text(errors="replace")[-3000:])
    ended = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit {process.returncode}"
    return f"the process ended by {ended}"


def _computed(process: int) -> float:
    """Computing time of a process in seconds."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _keep(faults: Path, out: Path) -> None:
    for file in faults.iterdir() if faults.is_dir() else ():
        out.mkdir(parents=True, exist_ok=True)
        (out / file.name).write_bytes(file.read_bytes())


def main() -> None:
    """Fuzz the selected targets."""
    if sys.argv[1:2] == ["--child"]:
        name, folder, runs, seed = sys.argv[2:6]
        child(name, Path(folder), int(runs), int(seed), blind="--blind" in sys.argv)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="a target or a group; by default all")
    parser.add_argument("--inputs", type=int, default=20_000, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="a folder for results and faulty inputs")
    parser.add_argument("--blind", action="store_true", help="without atheris")
    given = parser.parse_args()
    from fuzz_targets import TARGETS

    chosen = [
        name
        for name, one in TARGETS.items()
        if not given.target or name in given.target or (one.group in given.target and one.group not in TARGETS)
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        found = campaign(name, given.inputs, given.seed, given.out, blind=given.blind)
        found["seed"], found["engine"] = given.seed, "blind" if given.blind else "atheris"
        with (given.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(
            f"{name}: {found['inputs']:,} inputs in {found['seconds']:.0f} s, {found['outcomes']}, "
            f"slowest {found['slowest_s']} s, {found['memory_mib']} MiB, faults: "
            f"{[(one['what'], one['times']) for one in found['faults']]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
