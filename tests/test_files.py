"""Files appear whole or not at all."""

import csv
import errno
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sdclr.errors import InputError, StorageError
from sdclr.files import (
    append_json,
    claimed,
    csv_bytes,
    left_aside,
    mapped_array,
    new_array,
    require_space,
    storing,
    streamed,
    temporary_array,
    whole_folder,
    write_atomically,
    write_csv,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_only_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="name a file to write"):
            write_atomically(place, b"new")
    with pytest.raises(InputError, match=r"file/deep/x cannot be written: .*file.* is a file; name another place"):
        write_atomically(tmp_path / "file" / "deep" / "x", b"new")
    assert (tmp_path / "file").read_text() == "x"


def test_two_writers_of_a_file_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "page"
    with ThreadPoolExecutor(1) as pool:
        with streamed(path) as file:
            file.write(b"the first")
            other = pool.submit(write_atomically, path, b"the other")
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
            assert not path.exists()
        other.result(timeout=30)
    assert {place.name: place.read_bytes() for place in tmp_path.iterdir()} == {"page": b"the other"}


def test_csv_keeps_every_name_and_writes_plain_line_ends(tmp_path: Path) -> None:
    rows = [["a,b", 'say "x"', "two\nlines"], ["back\rhere", " blank", None], ["caf\udce9", 1.5, ""]]
    write_csv(tmp_path / "a.csv", ["x", "y", "z"], rows)
    data = (tmp_path / "a.csv").read_bytes()
    assert data.startswith(b"x,y,z\n")
    assert b"caf\xe9" in data
    text = data.decode("utf-8", "surrogateescape")
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[1:] == [["" if cell is None else str(cell) for cell in row] for row in rows]
    assert csv_bytes([["a", 1]], quote_all=True) == b'"a","1"\n'
    with pytest.raises(InputError, match="holds half a character"):
        csv_bytes([["\ud812"]])


REFUSALS = [
    (errno.ENOSPC, r"the disk is full, it needs 3\.5 GB, .* are free: free some space, or choose another folder"),
    (errno.EDQUOT, r"your disk quota is used up, it needs 3\.5 GB: remove files, or choose another folder"),
    (errno.EFBIG, r"it needs 3\.5 GB, more than the file system allows for a file: choose another disk"),
    (errno.EROFS, r"the file system is read-only: make it writable, or choose another folder"),
    (errno.EACCES, r"no permission to write there: allow it, or choose another folder"),
    (errno.EPERM, r"no permission to write there: allow it, or choose another folder"),
    (errno.EIO, r"the disk reports an input/output error: check the disk, or choose another folder"),
    (errno.EMFILE, r"too many open files: raise the limit with `ulimit -n`, or use fewer --workers"),
    (errno.ENFILE, r"the system has too many open files: close other programs"),
    (errno.ESTALE, r"the network file system has lost it: mount it again, or choose another folder"),
    (errno.ENOENT, r"its folder is gone: put it back, or choose another folder"),
]


@pytest.mark.parametrize(("code", "words"), REFUSALS, ids=lambda value: errno.errorcode.get(value, ""))
def test_what_the_file_system_refuses_becomes_one_line(tmp_path, code, words):
    path = tmp_path / "deep" / "file"
    with pytest.raises(StorageError, match=f"^{path} cannot be written: .*{words}"), storing(path, size=3_500_000_000):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("code", [errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR])
def test_a_path_that_is_wrong_is_an_input_error(tmp_path, code):
    with (
        pytest.raises(InputError, match=r"cannot be written: .*(another place|shorter one)") as caught,
        storing(tmp_path),
    ):
        raise OSError(code, os.strerror(code))
    assert not isinstance(caught.value, StorageError)


def test_errors_of_inputs_pass(tmp_path):
    elsewhere = "/sys/kernel/images"
    for code, name in ((errno.EACCES, elsewhere), (errno.ENOENT, elsewhere), (errno.ECONNREFUSED, None)):
        with pytest.raises(OSError, match=os.strerror(code)) as caught, storing(tmp_path / "out"):
            raise OSError(code, os.strerror(code), name)
        assert caught.value.errno == code


def test_a_long_name_is_told(tmp_path):
    with pytest.raises(InputError, match="the name is too long for this disk; choose a shorter one"):
        write_atomically(tmp_path / ("x" * 300), b"")


def test_space_is_checked_before_the_work(tmp_path):
    require_space(tmp_path / "deep" / "folder", 1000)
    with pytest.raises(StorageError, match=r"deep cannot be written: the disk is full, it needs 1e\+06 GB"):
        require_space(tmp_path / "deep", 10**15)


@pytest.fixture
def limited() -> Iterator[None]:
    """No file may have more than 4,096 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("limited")
def test_a_file_that_grows_too_large_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(StorageError, match=r"it needs 5 kB, and a file may have 4\.1 kB at most: raise this limit"):
        write_atomically(path, bytes(5000))
    with pytest.raises(StorageError, match="a file may have"), streamed(path) as file:
        file.writelines([bytes(1000)] * 100)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.usefixtures("limited")
def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines.jsonl"

    def add_many() -> None:
        for number in range(10**4):
            append_json(path, {"number": number})

    with pytest.raises(StorageError, match="a file may have"):
        add_many()
    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
    assert numbers == list(range(len(numbers)))
    assert path.stat().st_size > 4096 - 30
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.usefixtures("limited")
def test_a_table_without_space_is_not_there(tmp_path):
    with pytest.raises(StorageError, match=r"table.npy cannot be written: it needs 8 kB, and a file may have 4\.1 kB"):
        new_array(tmp_path / "table.npy", (1000, 2), np.float32)
    with pytest.raises(StorageError, match="a file may have"), temporary_array(tmp_path, "looks", 10**4, np.float32):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_table_has_its_space_on_the_disk_from_the_beginning(tmp_path):
    path = tmp_path / "table.npy"
    table = new_array(path, (5000, 3), np.float32)
    assert path.stat().st_blocks * 512 >= table.nbytes
    table[7] = 5
    table.flush()
    again = mapped_array(path)
    assert (again.shape, again.dtype, float(again.sum())) == ((5000, 3), np.float32, 15)
    with path.open("r+b") as file:  # as earlier versions left it: a hole of the right length
        file.truncate(128)
        file.truncate(128 + table.nbytes)
    assert path.stat().st_blocks * 512 < table.nbytes
    mapped_array(path)
    assert path.stat().st_blocks * 512 >= table.nbytes


def test_where_space_cannot_be_reserved_it_is_written(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", none)
    table = new_array(tmp_path / "table.npy", (10**6, 2), np.float32)
    assert (tmp_path / "table.npy").stat().st_blocks * 512 >= table.nbytes
    assert not table.any()


def test_temporary_arrays_of_killed_processes_are_removed_and_those_in_use_are_not(tmp_path):
    (tmp_path / "looks-killed.tmp").write_bytes(b"x")
    with temporary_array(tmp_path, "looks", 10, np.int64) as used:
        with temporary_array(tmp_path, "looks", 10, np.int64) as other:
            assert len(list(tmp_path.iterdir())) == 2
            used[:], other[:] = 1, 2
        assert used.tolist() == [1] * 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_whole_or_not_at_all(tmp_path, there):
    folder = tmp_path / "folder"
    if there:
        folder.mkdir()

    def fill(*, fails: bool) -> None:
        with whole_folder(folder) as aside:
            write_atomically(aside / "file", b"new")
            (aside / "deep").mkdir()
            if fails:
                raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fill(fails=True)
        assert [path.name for path in tmp_path.rglob("*")] == ["folder"] * there
    left_aside(folder).mkdir()
    (left_aside(folder) / "killed").write_bytes(b"x")
    fill(fails=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "folder"]


def test_a_folder_that_does_not_fit_is_called_by_its_name(tmp_path):
    def fill() -> None:
        with whole_folder(tmp_path / "folder") as aside, storing(aside / "file"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=f"^{tmp_path}/folder/file cannot be written"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_replaced_if_not_asked(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(InputError, match="file is a file"), streamed(tmp_path / "file", replace=False) as file:
        file.write(b"new")
    with streamed(tmp_path / "other", replace=False, aside=tmp_path / "aside") as file:
        file.write(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old", "other": b"new"}


def test_a_folder_without_permission_cannot_be_written(tmp_path):
    if not os.geteuid():
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="no permission to write there"):
        write_atomically(tmp_path / "file", b"")


def test_workers_of_a_killed_process_are_waited_for(tmp_path: Path) -> None:
    """A forked worker holds the lock of the process that started it, and ends some seconds after it."""
    code = (
        "import os, sys, time, pathlib\n"
        "from sdclr.files import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])) as free:\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(2)\n"
        "        os._exit(0)\n"
        "    print(free, flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with claimed(tmp_path) as free:
        assert not free  # it is alive
    holder.kill()
    holder.wait()
    with claimed(tmp_path) as free:
        assert free
    holder.stdout.close()
