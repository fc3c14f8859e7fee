"""Full disks, limits, missing permissions, two commands at once: all end in one line, and nothing is lost.

All places, limits and sizes, with counts of how commands ended, as root, so that disks can be mounted:

    SDCLR_ALL_FAULTS=1 pytest -s tests/faults/test_full_disk.py
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdclr.cli.catalog import CATALOG

_TRAIN = "--epochs 1 --batch-size 16 --device cpu --amp none"
_PAPER = "--epochs 1 --amp none --device cpu --workers 0"
COMMANDS = {
    "mine": "mine images --encoder run --out out --k 5 --csv out/rare.csv --fiftyone out/f.csv --workers 0",
    "select": "select images --encoder run --folder out/m --budget 5 --out out/next.csv --workers 0",
    "apply": "apply marks.csv images --classes out/c --manifest out/m.csv --drop-list out/d.txt --copy",
    "info": "info images --no-measure --json out/i.json",
    "pack": "pack images out/packed --shard-images 20",
    "diagnose": "diagnose images --encoder run --images 60 --part 50 --out out/d.json --workers 0",
    "duplicates": "duplicates images --encoder run --folder out/m --out out/d.csv --marks out/marks.csv --workers 0",
    "neighbors": "neighbors images --encoder run --queries 1/01.png --k 3 --out out/n.parquet --workers 0",
    "pretrain": f"pretrain images --run out/run --encoder.width 4 --no-progress {_TRAIN}",
    "finetune": f"finetune --start run --train images --test images --method ce --out out/tuned --workers 0 {_TRAIN}",
    "embed": "embed images --encoder run --out out/e.parquet --workers 0",
    "export": "export run out/exported --formats timm",
    "evaluate": "evaluate --encoder run --train images --test images --shots 2 --k 5 --out out --workers 0",
    "evaluate-attributes": (
        "evaluate-attributes --encoder run --train table.csv --test table.csv --few-shot 0.1 --out out --workers 0"
    ),
    "report": "report run --source images --out out/r.html --figures out/f",
    "reproduce": f"reproduce table4 --data images --folder out --splits 1 {_PAPER}",
    "bench": f"bench --data images --folder out --matrix simclr+none --splits 1 {_PAPER}",
}
"""A command line of each command that writes files, into the folder `out`."""
ELSEWHERE = {"demo": "mines, or trains, as `mine` and `pretrain` do", "recipe": "writes to standard output"}
FINISHED = {"pretrain", "finetune", "export", "pack"}
"""Commands that write nothing where they have ended before."""
KILLED = -signal.SIGKILL
ALL = bool(os.environ.get("SDCLR_ALL_FAULTS"))
"""Whether the slow tests try all that they can; by default they try each kind once."""
MOST = [name for name in COMMANDS if ALL or name != "bench"]
"""Commands that are disturbed in several ways: `bench` has the queue of `reproduce`."""
counts: Counter[str] = Counter()
"""How commands ended."""
REMEDY = r"choose|free|raise|allow|name a|remove"


def checked(ended, work, *, codes=(1,)):
    """One line on standard error that names a place and a remedy, no traceback, and no file left half-written."""
    assert ended.code in codes, (ended.code, ended.err)
    (line,) = [line for line in ended.err.splitlines() if "error:" in line]
    assert ended.err.endswith(f"{line}\n")
    assert re.match(r"error: .*(out|tmp|dev/stdout).*: .*", line), line
    assert re.search(REMEDY, line), line
    assert "Traceback" not in ended.err + ended.out
    assert "Exception" not in ended.err + ended.out
    assert not [str(file) for file in work.rglob("*") if file.name.endswith(".tmp")]
    return line


@pytest.fixture(scope="module", autouse=True)
def _told():
    yield
    sys.stdout.write(f"\nfull disks: {json.dumps(dict(sorted(counts.items())))}\n")


def test_every_command_that_writes_is_here():
    assert COMMANDS.keys() | ELSEWHERE.keys() == CATALOG.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_on_files_ends_every_command_in_one_line(name, call, faulty, work):
    before = faulty.contents(work)
    line = checked(call(COMMANDS[name].split(), work, largest=100), work)
    assert "a file may have 100 bytes at most: raise this limit with `ulimit -f`" in line
    after = faulty.contents(work)
    assert before.items() <= after.items()


@pytest.mark.slow
def test_a_training_goes_on_bit_for_bit(call, faulty, work):
    """A list, a checkpoint and the weights are refused; those at the end are the weights of an undisturbed run."""
    command = [*COMMANDS["pretrain"].split(), "--checkpoint-minutes", "0"]
    whole = call(command, work)
    assert whole.code == 0, whole.err
    expected = faulty.results(work / "out")
    shutil.rmtree(work / "out")
    refused = {2: "image_files.npy", 7: "step-000000002", 5: "encoder.safetensors"}
    for at, name in refused.items():
        assert name in checked(call(command, work, at=at, code=errno.ENOSPC), work)
    assert call(command, work).code == 0
    found = faulty.results(work / "out")
    weights = [name for name in expected if name.endswith((".pt", ".safetensors"))]
    assert len(weights) == 3
    assert {name: found[name] for name in weights} == {name: expected[name] for name in weights}


@pytest.mark.parametrize("command", ["recipe cifar_lt", "info --no-measure", "--help"])
def test_standard_output_on_a_full_disk(command):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "sdclr", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert re.fullmatch(
        r"error: /dev/stdout cannot be written: the disk is full, .*: free some space, .*\n", ended.stderr
    )


def tried(call, work, name, kind, **fault):
    """Run a command under a fault, and count how it ends: in one line, or well, where the fault met nothing."""
    ended = call(COMMANDS[name].split(), work, **fault)
    if ended.code == 0:
        counts[f"{kind}: ended well"] += 1
    elif ended.code == fault.get("code") == KILLED:
        counts[f"{kind}: killed"] += 1
    else:
        checked(ended, work)
        counts[f"{kind}: one line"] += 1
    return ended


def finished(call, faulty, work, name, expected):
    """The same command, undisturbed, ends with the results of one that was never disturbed."""
    ended = call(COMMANDS[name].split(), work)
    assert ended.code == 0 or name == "export", ended.err  # an export that is complete is not made again
    assert faulty.results(work) == expected
    counts["goes on to the same results"] += 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", MOST)
def test_whichever_file_is_refused_or_ends_in_a_kill(name, call, faulty, work):
    """One in the middle; with ALL, the first, the last and some between."""
    whole = call(COMMANDS[name].split(), work)
    assert whole.code == 0, whole.err
    expected = faulty.results(work)
    last = whole.synced
    killed = {1, last // 2, last} if ALL else {last // 2}
    refused = {1, 2, last // 3, last // 2, last - 1, last} if ALL else {last // 2}
    if name not in FINISHED:  # results that are there stay as they are until new ones replace them
        assert tried(call, work, name, "refused", at=1, code=errno.ENOSPC).code
        assert faulty.results(work) == expected
    shutil.rmtree(work / "out")
    for at in sorted({max(1, place) for place in killed}):
        tried(call, work, name, "killed", at=at, code=KILLED)
    if ALL:
        finished(call, faulty, work, name, expected)
        shutil.rmtree(work / "out")
    codes = cycle((errno.EDQUOT, errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES))
    for at, code in zip(sorted({max(1, place) for place in refused}), codes, strict=False):
        tried(call, work, name, "refused", at=at, code=code)
    finished(call, faulty, work, name, expected)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", MOST)
def test_limits_and_disks_of_every_size(name, call, faulty, work, disk):
    """A limit on files, a disk that is too small, and one that is read-only; with ALL, more of the first two."""
    disk.mount("size=64m")
    whole = call(COMMANDS[name].split(), work)
    assert whole.code == 0, whole.err
    expected = faulty.results(work)
    sizes = [file.stat() for file in (work / "out").rglob("*") if file.is_file()]
    largest, needed = max(size.st_size for size in sizes), sum(size.st_blocks * 512 for size in sizes)
    disk.unmount()

    disk.mount("size=64m")
    for size in (largest // 20, largest // 2, largest - 1) if ALL else [largest // 2]:
        tried(call, work, name, "limit", largest=size)
    if ALL:
        finished(call, faulty, work, name, expected)
    disk.unmount()

    disk.mount("size=4k")
    for size in (4096, needed // 5, needed // 2) if ALL else [needed // 2]:
        disk.mount(f"size={max(4096, size)}")
        ended = tried(call, work, name, "small disk")
        assert ended.code or needed <= 4096  # a single small file fits
    disk.mount("size=64m,ro")
    assert "read-only" in tried(call, work, name, "read-only disk").err
    disk.mount("size=64m,rw")
    finished(call, faulty, work, name, expected)


@pytest.mark.slow
def test_an_export_that_was_killed_is_made_again(call, faulty, work):
    """Into a new folder and into one that is there, as a mounted disk is."""
    command = COMMANDS["export"].split()
    whole = call(command, work)
    assert whole.code == 0, whole.err
    expected = faulty.contents(work)
    for folders in ((), ("out", "out/exported")):
        shutil.rmtree(work / "out")
        for folder in folders:
            (work / folder).mkdir()
        for at in (1, whole.synced):
            assert call(command, work, at=at, code=faulty.KILLED).code == faulty.KILLED
        ended = call(command, work)
        assert ended.code == 0, ended.err
        assert faulty.contents(work) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_within_a_file(name, call, faulty, work):
    """Before the work, where that is long."""
    (work / "out").write_text("a file")
    before = faulty.contents(work)
    codes = (2,) if name in {"embed", "export", "pretrain", "mine"} else (1, 2)
    checked(call(COMMANDS[name].split(), work), work, codes=codes)
    assert faulty.contents(work) == before


READS = {
    "select": "select images --encoder out/run --folder out/m --budget 5 --workers 0",
    "duplicates": "duplicates images --encoder out/run --folder out/m --workers 0",
    "neighbors": "neighbors images --encoder out/run --queries 1/01.png --k 3 --workers 0",
    "diagnose": "diagnose images --encoder out/run --images 60 --part 50 --out d.json --workers 0",
    "evaluate": "evaluate --encoder out/run --train images --test images --shots 2 --k 5 --out results --workers 0",
    "report": "report out/run --source images --out r.html",
}
"""Commands that read a finished run or reading, and write elsewhere or nothing."""
WRITES = {
    "mine": "mine images --encoder out/run --out out/m --k 5 --workers 0",
    "diagnose": "diagnose images --encoder out/run --images 60 --part 50 --workers 0",
    "evaluate": "evaluate --encoder out/run --train images --test images --shots 2 --k 5 --workers 0",
    "report": "report out/run --source images",
}
"""Commands that write into a finished run or reading."""


def untimed(out):
    """Lines of output without those that give times, which differ between runs."""
    return [line for line in out.splitlines() if not re.match(r"cost:|done in|.* s so far", line)]


@pytest.mark.slow
def test_what_is_finished_can_be_read_on_a_read_only_disk(call, work, disk):
    disk.mount("size=64m")
    shutil.copytree(work / "run", work / "out" / "run")
    before = {name: call(line.split(), work) for name, line in READS.items() if name in ("select", "duplicates")}
    disk.mount("size=64m,ro")
    ended = {name: call(line.split(), work) for name, line in READS.items()}
    assert {name: one.code for name, one in ended.items()} == dict.fromkeys(READS, 0), ended
    assert {name: untimed(ended[name].out) for name in before} == {
        name: untimed(one.out) for name, one in before.items()
    }
    for line in WRITES.values():
        assert "read-only" in checked(call(line.split(), work), work)


def shards(work, count=300):
    """A folder of Parquet files with an image each, and one of embeddings."""
    images = [file.read_bytes() for file in sorted((work / "images").rglob("*.png"))]
    for kind in ("shards", "vectors"):
        (work / kind).mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        name = f"{number:05}-of-{count:05}.parquet"
        pq.write_table(pa.table({"image": [images[number % len(images)]]}), work / "shards" / f"train-{name}")
        embedding = generator.normal(size=(1, 8)).tolist()
        vectors = pa.table({"id": [str(number)], "embedding": embedding})
        pq.write_table(vectors, work / "vectors" / f"embeddings-{name}")


@pytest.mark.slow
def test_64_open_files_are_enough_for_hundreds_of_shards(call, work):
    shards(work)
    train = "--epochs 1 --batch-size 64 --encoder.width 4 --device cpu --amp none --no-progress"
    for line in (
        f"pretrain shards --run out/run --workers 2 {train}",
        "embed shards --encoder run --out out/e.parquet --workers 2",
        "mine shards --encoder run --out out/m --workers 2",
        "mine vectors --out out/v",
    ):
        ended = call(line.split(), work, files=64)
        assert ended.code == 0, (line, ended.err)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "report", "bench"])
def test_two_at_once_leave_whole_files(name, call, faulty, work):
    command = COMMANDS[name].split()
    assert call(command, work).code == 0
    expected = faulty.results(work)
    shutil.rmtree(work / "out")
    with ThreadPoolExecutor(2) as pool:
        for ended in pool.map(lambda _: call(command, work), range(2)):
            if ended.code:
                checked(ended, work)
    if name == "bench":  # a run that the other process trained is not in the tables of the one that ends first
        assert call(command, work).code == 0
    assert faulty.results(work) == expected
