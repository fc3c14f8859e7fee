"""Worker processes: start methods, scripts without a guard, little shared memory, few open files, lost processes.

Start methods, sizes and limits in all combinations: SDCLR_ALL_FAULTS=1 pytest tests/decoding/test_workers.py
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sdclr.decoding import workers as module
from sdclr.decoding.lost import as_lost
from sdclr.decoding.workers import WorkerBatches, shared_space
from sdclr.errors import ProcessLostError

ALL = bool(os.environ.get("SDCLR_ALL_FAULTS"))
"""Whether combinations are tried that others nearly cover."""
SOURCE = Path(__file__).parents[2] / "src"
WORK = """
import numpy as np, sys
from pathlib import Path
import torch
from sdclr.views.config import ViewConfig
from sdclr.data.sources import ArraySource
from sdclr.downstream.config import FinetuneConfig
from sdclr.downstream.finetune import finetune
from sdclr.encoders import EncoderConfig, HeadConfig
from sdclr.evaluation.embed import embed
from sdclr.mining.config import MineConfig
from sdclr.mining.mine import mine
from sdclr.training.config import PretrainConfig
from sdclr.training.runtime import Runtime
from sdclr.training.pretrain import pretrain

RUNTIME = Runtime(device="cpu", workers=2, progress=False, amp="none")

def work(out):
    torch.set_num_threads(1)
    pictures = np.random.default_rng(0).integers(0, 256, (36, 100, 120, 3), dtype=np.uint8)
    images = ArraySource(pictures, labels=np.arange(36) % 3, name="pictures")
    # Five batches of 300 kB are on their way: more than the shared memory that tests leave.
    config = PretrainConfig(
        encoder=EncoderConfig(name="resnet20", width=4), head=HeadConfig(dim=8), views=ViewConfig(image_size=64),
        epochs=1, batch_size=12)
    run = pretrain(images, config, run=out / "run", runtime=RUNTIME)
    mine(images, MineConfig(batch_size=12, amp="none"), encoder=run, out=out / "mined", workers=2)
    embed(images, out / "features.parquet", encoder=run, batch_size=12, workers=2)
    small = FinetuneConfig(method="ce", epochs=1, batch_size=12)
    finetune(images, images, small, start=run, out=out / "tuned", workers=2, amp="none", cache_gb=0)
    print("done")
"""


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
"""


def script(tmp_path: Path, *, before: str = "", guard: bool = False) -> list[str]:
    """The command of a script that does `WORK`."""
    end = "if __name__ == '__main__':\n    work(Path(sys.argv[1]))" if guard else "work(Path(sys.argv[1]))"
    (tmp_path / "script.py").write_text(f"{before}\n{WORK}\n{end}\n")
    return [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def may_mount() -> bool:
    """Whether this process may make a mount namespace of its own."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]  # noqa: S108
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "guard"),
    [("forkserver", True), *([("spawn", True), ("spawn", False), ("forkserver", False)] if ALL else [])],
)
@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked here")
def test_scripts_run_whatever_start_method_they_set(tmp_path, method, guard):
    before = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)"
    done = run(script(tmp_path, before=before, guard=guard))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


SPAWNS = "from sdclr.decoding import workers\nworkers.start_method = lambda: 'spawn'"
"""As on systems where nothing is forked."""


@pytest.mark.slow
def test_where_nothing_is_forked_a_script_with_a_guard_runs(tmp_path):
    done = run(script(tmp_path, before=SPAWNS, guard=True))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.slow
def test_where_nothing_is_forked_a_script_without_a_guard_gets_the_remedy(tmp_path):
    done = run(script(tmp_path, before=SPAWNS))
    assert done.returncode == 1
    assert "put the calls of your script below `if __name__ ==" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "encoder.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no mount namespace may be made here")
def test_a_script_without_a_guard_runs_with_little_shared_memory_and_few_open_files(tmp_path):
    before = f"import multiprocessing\nmultiprocessing.set_start_method('spawn'){LIMITED}"
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    done = run(["unshare", "-m", "sh", "-c", mount, "sh", *script(tmp_path, before=before), "64"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no mount namespace may be made here")
@pytest.mark.parametrize("size", ["1m", "64m"] if ALL else ["64m"])
def test_little_shared_memory_is_enough(tmp_path, size):
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    done = run(["unshare", "-m", "sh", "-c", mount, "sh", *script(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no mount namespace may be made here")
def test_without_shared_memory_this_process_decodes(tmp_path):
    """Not even the locks of a queue can be made then."""
    mount = 'mount -t tmpfs -o size=1m,mode=555,ro tmpfs /dev/shm && exec "$@"'
    done = run(["unshare", "-m", "sh", "-c", mount, "sh", *script(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


class Numbers(Dataset):
    """Tensors of a number; one of them may do something else."""

    def __init__(self, instead=lambda: None, at=-1):
        self.instead, self.at = instead, at

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == self.at:
            self.instead()
        return torch.full((1000,), index)


def numbers(dataset, **options):
    return WorkerBatches(dataset, workers=2, collate_fn=torch.stack, batch_size=3, **options)


def test_batches_are_the_same_by_pipes_and_by_shared_memory(monkeypatch):
    shared = numbers(Numbers(), batch_bytes=24000)
    assert not shared.packed
    monkeypatch.setattr(module, "is_scarce", lambda needed: needed > 0)
    piped = numbers(Numbers(), batch_bytes=24000)
    assert piped.packed
    for one, other in zip(list(shared), list(piped), strict=True):
        assert torch.equal(one, other)


def test_space_is_shared_with_workers():
    space = shared_space(12)

    class Marks(Numbers):
        def __getitem__(self, index):
            space[index] = index + 1
            return torch.zeros(1)

    assert len(list(numbers(Marks()))) == 4
    assert space.tolist() == list(range(1, 13))


@pytest.mark.parametrize(
    ("signum", "said"),
    [
        (signal.SIGKILL, "was killed (SIGKILL), as the system does when memory runs out"),
        (signal.SIGBUS, "--shm-size 1g"),
    ],
)
def test_a_lost_worker_is_one_line(signum, said):
    with pytest.raises(ProcessLostError) as caught:
        list(numbers(Numbers(lambda: os.kill(os.getpid(), signum), at=7)))
    assert said in str(caught.value)
    assert "the same command resumes" in str(caught.value)
    assert "\n" not in str(caught.value)


def connection_reset(pid):
    os.kill(pid, signal.SIGBUS)
    raise ConnectionResetError(104, "Connection reset by peer")


class Torn:
    """A batch whose worker dies while this process fetches its memory."""

    def __reduce__(self):
        return connection_reset, (os.getpid(),)


def test_a_worker_lost_while_its_batch_is_fetched_is_one_line():
    with pytest.raises(ProcessLostError, match="--shm-size 1g"):
        list(WorkerBatches(Numbers(), workers=1, collate_fn=lambda _: Torn(), batch_size=3))


def test_an_error_of_a_connection_stays_what_it_is_while_workers_run(monkeypatch):
    monkeypatch.setattr(module, "_REPORTED", 0.1)

    def fails():
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        list(numbers(Numbers(fails, at=7)))


def test_other_errors_of_workers_stay_what_they_are():
    def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(numbers(Numbers(fails, at=7)))
    assert as_lost(RuntimeError("The size of tensor a must match")) is None
    assert as_lost(ValueError("DataLoader worker (pid 7) is killed by signal: Killed. ")) is None


def test_where_no_process_can_start_this_one_decodes(monkeypatch, told):
    def refuses(*_args, **_how):
        raise OSError(11, "Resource temporarily unavailable")

    context = multiprocessing.get_context(module.start_method())
    monkeypatch.setattr(context.Process, "start", refuses)
    assert torch.stack(list(numbers(Numbers()))).shape == (4, 3, 1000)
    (line,) = told.told
    assert line.startswith("no process can be started to decode images (Resource temporarily unavailable)")


def test_where_no_lock_can_be_made_this_one_decodes(monkeypatch, told):
    def refuses(*_args, **_how):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("sdclr.decoding.decode.Shares", refuses)
    assert torch.stack(list(numbers(Numbers()))).shape == (4, 3, 1000)
    (line,) = told.told
    assert line.startswith("no process can be started to decode images (Read-only file system)")


@pytest.mark.slow
@pytest.mark.parametrize("files", [64, 1024] if ALL else [64])
def test_few_open_files_are_enough(tmp_path, files):
    done = run([*script(tmp_path, before=LIMITED), str(files)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_the_limit_of_open_files_is_raised_where_it_may_be():
    before = "import resource\nhard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
    code = (
        f"{before}resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 4096)))\n"
        "from sdclr.decoding.workers import _allowed\n"
        "print(_allowed(4, 2), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64)"
    )
    done = run([sys.executable, "-c", code])
    assert done.stdout == "4 True\n", done.stderr


def test_a_loader_needs_no_more_shared_memory_than_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path)
    free = os.statvfs(tmp_path)
    assert not module.is_scarce(1000)
    assert module.is_scarce(free.f_bavail * free.f_frsize)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert module.is_scarce(free.f_bavail * free.f_frsize // 10)
    assert np.prod(shared_space(2, 3).shape) == 6
