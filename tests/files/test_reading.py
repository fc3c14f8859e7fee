"""Whatever is wrong with a file of ours becomes one line that names it, what is wrong and the remedy."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from sdclr.errors import DamagedFileError, InputError
from sdclr.files import (
    check_array,
    open_table,
    parquet_bytes,
    parsing,
    read_array,
    read_arrays,
    read_csv,
    read_json,
    read_json_lines,
    read_safetensors,
    read_state,
    read_table,
    read_text,
    read_torch,
    with_checksum,
    write_json,
)
from sdclr.files.reading import COPY

TABLE = pa.table({"id": [f"{n}.png" for n in range(50)], "score": np.arange(50.0)}).replace_schema_metadata(
    {"sdclr": json.dumps({"format": "x"})}
)


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.arange(40), b=np.array("t"))


def described_table(path: Path) -> Any:
    """As scores are read: what says nothing of itself is not a file of ours."""
    found = read_table(path, "R")
    with parsing(path, "R"):
        return found.to_pylist(), found.schema.metadata[b"sdclr"]


def write_torch(path: Path) -> None:
    torch.save({"step": 3, "weights": torch.arange(60.0)}, path)


# How a file of each format is written and read; what is read is compared as text.
FORMATS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "json": (
        lambda path: write_json(path, with_checksum({"a": [1, 2], "b": "c"})),
        lambda path: [read_json(path, "R", keys={"a": list, "b": str})[key] for key in "ab"],
    ),
    "npz": (write_npz, lambda path: read_arrays(path, "ab", "R")),
    "parquet": (lambda path: path.write_bytes(parquet_bytes(TABLE)), described_table),
    "torch": (write_torch, lambda path: read_state(path, "R", keys={"step": int, "weights": torch.Tensor})),
}
READERS: dict[str, Callable[[Path], Any]] = {
    **{name: read for name, (_, read) in FORMATS.items()},
    "lines": read_json_lines,
    "text": lambda path: read_text(path, "R"),
    "csv": lambda path: read_csv(path, ("a", "b"), "R"),
    "npy": lambda path: read_array(path, "R"),
    "mapped npy": lambda path: read_array(path, "R", mode="r+"),
    "safetensors": lambda path: read_safetensors(path, "R"),
}


def one_line(error: Exception, path: Path, remedy: str = "R") -> None:
    message = str(error)
    assert str(path) in message
    assert message.endswith(remedy)
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("name", FORMATS)
def test_a_bit_that_flips_anywhere_changes_nothing_or_is_named(name: str, tmp_path: Path) -> None:
    write, read = FORMATS[name]
    path = tmp_path / "file"
    write(path)
    whole, values = path.read_bytes(), repr(read(path))
    damaged = 0
    for place in sorted({*range(0, len(whole), max(1, len(whole) // 250)), *range(len(whole) - 60, len(whole))}):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            found = repr(read(path))
        except DamagedFileError as error:
            one_line(error, path)
            damaged += 1
        else:
            assert found == values, place
    assert damaged > 100 or name == "json"


@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_a_missing_file_a_folder_and_a_pipe(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(InputError, match="is missing") as missing:
        READERS[name](path)
    one_line(missing.value, path, COPY if name == "lines" else "R")
    path.mkdir()
    with pytest.raises(DamagedFileError, match="a folder") as wrong:
        READERS[name](path)
    one_line(wrong.value, path, COPY if name == "lines" else "R")
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(DamagedFileError, match="pipe") as wrong:
        READERS[name](path)
    one_line(wrong.value, path, COPY if name == "lines" else "R")


@pytest.mark.parametrize("name", [name for name in READERS if name not in {"lines", "text"}])
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"some text\n" * 100, b"[1, 2", b"PK\3\4" + b"x" * 200])
def test_every_reader_names_a_file_of_another_kind(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as wrong:
        READERS[name](path)
    one_line(wrong.value, path)


def test_a_file_without_permission_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("{}")

    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match="no permission") as error:
        read_json(path)
    assert not isinstance(error.value, DamagedFileError)


def test_a_disk_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("{}")

    def broken(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(DamagedFileError, match=r"Input/output error\): R$"):
        read_json(path, "R")


def test_json_must_hold_what_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for text, reason in (('{"b": 1}', "it has no 'a'"), ('{"a": "x"}', "'a' is 'x'"), ('{"a": true}', "'a' is True")):
        path.write_text(text)
        with pytest.raises(DamagedFileError, match=reason):
            read_json(path, keys={"a": int})
    path.write_text('{"a": 1, "checksum": "of something else"}')
    with pytest.raises(DamagedFileError, match="another checksum"):
        read_json(path)


class TestLines:
    def test_a_last_line_that_was_being_written_is_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "log.jsonl"
        path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
        assert read_json_lines(path) == [{"step": 1}, {"step": 2}]

    @pytest.mark.parametrize("line", ['{"ste', "[1]", '{"stop": 1}', "\udc80"])
    def test_damage_in_the_middle_is_named_with_its_line(self, line: str, tmp_path: Path, told: Any) -> None:
        path = tmp_path / "log.jsonl"
        path.write_bytes(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'.encode("utf-8", "surrogateescape"))
        with pytest.raises(DamagedFileError, match=r"line 2.*remove"):
            read_json_lines(path, keys={"step": int})
        assert read_json_lines(path, keys={"step": int}, skip=True) == [{"step": 1}, {"step": 3}]
        assert told.told == [f"{path}: line 2 is damaged and left out"]


class TestArrays:
    def test_a_file_that_is_cut_short_is_not_made_longer(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.npy"
        np.save(path, np.ones((10, 4), dtype=np.float32))
        path.write_bytes(path.read_bytes()[:-8])
        size = path.stat().st_size
        for mode in (None, "r", "r+", "c"):
            with pytest.raises(DamagedFileError, match=f"it has {size} bytes, its header states {size + 8}"):
                read_array(path, mode=mode)
        assert path.stat().st_size == size

    @pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 4)])
    def test_arrays_come_back(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        values = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.save(tmp_path / "rows.npy", values)
        for mode in (None, "r", "r+", "c"):
            np.testing.assert_array_equal(read_array(tmp_path / "rows.npy", mode=mode), values)

    @pytest.mark.parametrize("shape", ["(99999999999999999999, 4)", "(2000000000, 4)", "(-1, 4)", "(True, 4)"])
    def test_a_header_that_tells_of_more_than_there_is_takes_no_memory(self, shape: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.npy"
        np.save(path, np.ones((10, 4), dtype=np.float32))
        header, _, rest = path.read_bytes().partition(b"(10, 4)")
        path.write_bytes(header + shape.encode() + rest[len(shape) - len("(10, 4)") :])
        with pytest.raises(DamagedFileError):
            read_array(path)

    @pytest.mark.parametrize("text", ["(" * 5000, "-" * 9000 + "1", "[" * 300 + "]" * 300])
    def test_a_header_of_nested_text_is_damage(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.npy"
        header = f"{text}\n".encode()
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
        with pytest.raises(DamagedFileError, match=r"rows\.npy cannot be read"):
            read_array(path)

    def test_what_is_wanted(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.npy"
        values = np.ones((10, 4), dtype=np.float32)
        check_array(path, values, (None, 4), np.float32)
        for shape, dtype in (((9, 4), np.float32), ((10,), np.float32), ((10, 4), np.float64)):
            with pytest.raises(DamagedFileError, match=r"it holds float32 \(10, 4\)"):
                check_array(path, values, shape, dtype)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def test_no_reader_runs_code_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Harm(), protocol=2)
    Path("bare").write_bytes(pickled)
    np.save("array", np.array([Harm()], dtype=object), allow_pickle=True)
    np.savez("arrays", a=np.array([Harm()], dtype=object))
    torch.save({"step": Harm()}, "state")
    with zipfile.ZipFile("zip", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    for name in ("bare", "array.npy", "arrays.npz", "state", "zip"):
        for read in READERS.values():
            if read not in {READERS["text"], READERS["lines"]}:
                with pytest.raises(DamagedFileError):
                    read(Path(name))
    assert not Path("harmed").exists()


def test_tables_of_others_need_no_checksums(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    assert read_table(tmp_path / "plain.parquet").equals(TABLE)
    with pytest.raises(DamagedFileError, match="it has no column 'rank'"):
        read_table(tmp_path / "plain.parquet", columns=["id", "rank"])


@pytest.mark.parametrize("claimed", [-500, 499])
def test_a_table_that_claims_another_number_of_rows_is_damaged(claimed: int, tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"number": range(500)}), file)
    # In the footer: an integer of 64 bits, signed and of variable length, then a list.
    whole, before = file.read_bytes(), b"\x16" + varint(500) + b"\x19"
    assert whole.count(before) == 1
    file.write_bytes(whole.replace(before, b"\x16" + varint(claimed) + b"\x19"))
    with pytest.raises(DamagedFileError, match=rf"t\.parquet.*it claims {claimed} rows, and its parts 500"):
        read_table(file)


def varint(number: int) -> bytes:
    zigzag = 2 * number if number >= 0 else -2 * number - 1
    return bytes([zigzag & 0x7F | 0x80, zigzag >> 7])


def test_a_table_with_a_checksum_is_read_with_equal_values_held_once(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    columns = {"id": ["a", "a", "b"], "embedding": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32(), 1))}
    file.write_bytes(parquet_bytes(pa.table(columns, metadata={"sdclr": "{}"})))
    with open_table(file, dictionaries=["id"]) as opened:
        assert pa.types.is_dictionary(opened.schema_arrow.field("id").type)
        assert opened.read()["id"].to_pylist() == ["a", "a", "b"]


def test_states_and_weights_come_back(tmp_path: Path) -> None:
    write_torch(tmp_path / "state")
    assert read_state(tmp_path / "state", keys={"step": int})["step"] == 3
    with pytest.raises(DamagedFileError, match="it has no 'epoch'"):
        read_state(tmp_path / "state", keys={"epoch": int})
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(DamagedFileError, match="it holds a list"):
        read_state(tmp_path / "list", keys={})
    torch.save({"a": torch.ones(2)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert read_torch(tmp_path / "old")["a"].tolist() == [1, 1]
    save_file({"a": torch.ones(2)}, tmp_path / "weights")
    assert read_safetensors(tmp_path / "weights")["a"].tolist() == [1, 1]


def test_errors_of_the_input_inside_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InputError, match=r"^the encoder is unknown$"), parsing(path):
        raise InputError("the encoder is unknown")
    with pytest.raises(MemoryError), parsing(path):
        raise MemoryError
