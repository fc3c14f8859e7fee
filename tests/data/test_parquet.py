import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sdclr.data import row_groups
from sdclr.data.parquet import ParquetSource, holds_images
from sdclr.data.sources import SubsetSource, attributes_of, digits, image_bytes
from sdclr.errors import BadImageError, InputError


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, values, labels=None, *, column="image", label="label", names=None, row_group_size=3):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [None if value is None else {"bytes": png(value), "path": f"{value}.png"} for value in values]
    columns = {column: pa.array(images, kind)}
    if labels is not None:
        columns[label] = labels
    table = pa.table(columns)
    if names is not None:
        features = {label: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def reds(source):
    return [int(source.image(index)[0, 0, 0]) for index in range(len(source))]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "birds"
    place.mkdir()
    write(place / "train-00000-of-00002-0f3a.parquet", range(7), [0] * 7, names=["owl", "jay"])
    write(place / "train-00001-of-00002-77bc.parquet", range(7, 11), [1] * 4, names=["owl", "jay"])
    write(place / "validation-00000-of-00001.parquet", [99], [1], names=["owl", "jay"])
    return place


def test_files_of_a_split_are_one_source(folder):
    source = ParquetSource(folder)
    assert source.name == "birds-train"
    assert len(source) == 11
    assert list(source.ids) == [f"train/{number:05d}" for number in range(11)]
    assert source.labels.tolist() == [0] * 7 + [1] * 4
    assert source.labels.dtype == np.int64
    assert source.classes == ("owl", "jay")
    assert reds(source) == list(range(11))
    assert source.image(-1)[0, 0, 0] == 10
    with pytest.raises(IndexError):
        source.image(11)
    assert reds(ParquetSource(folder, split="validation")) == [99]


def test_files_may_be_listed(folder):
    files = sorted(folder.glob("*.parquet"))
    assert reds(ParquetSource(files[:2])) == list(range(11))
    assert ParquetSource(files[:2]).ids[0] == "train/00000"
    both = ParquetSource(files[1:])
    assert (both.name, both.ids[0], reds(both)) == ("birds", "birds/00000", [7, 8, 9, 10, 99])
    assert reds(ParquetSource(files, split="validation")) == [99]
    assert ParquetSource(files[2]).ids[0] == "validation/00000"


def test_other_layouts(tmp_path):
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "0000.parquet", [1, 2], ["b", "a"], column="img", label="fine_label")
    source = ParquetSource(tmp_path / "train")
    assert (source.name, source.ids[0]) == ("train", "train/00000")
    assert source.classes == ("a", "b")
    assert source.labels.tolist() == [1, 0]

    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": pa.array([png(5)], pa.large_binary())}), tmp_path / "data" / "shard_07.parquet")
    source = ParquetSource(tmp_path)
    assert (source.ids[0], source.labels, source.classes, reds(source)) == ("shard/00000", None, (), [5])


def test_labels_that_are_lists_are_no_classes(tmp_path):
    path = write(tmp_path / "a.parquet", [1, 2], [[0], [1, 2]])
    assert ParquetSource(path).labels is None


def write_columns(path, columns, metadata=None):
    count = len(next(iter(columns.values())))
    table = pa.table({"image": pa.array([png(value) for value in range(count)]), **columns})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path


def attributes(*paths):
    found = attributes_of(ParquetSource(paths))
    return found and (found.names, found.values.tolist())


def test_indicator_columns(tmp_path):
    first = {"attr:hat": pa.array([1, None, 0], pa.int8()), "label": [0, 1, 2], "attr:dog": [True, False, None]}
    second = {"attr:dog": ["true", "", "0"], "attr:hat": [0.0, 1.0, None], "label": [3, 4, 5]}
    paths = [write_columns(tmp_path / f"train-{number}.parquet", part) for number, part in enumerate([first, second])]
    assert attributes(*paths) == (("hat", "dog"), [[1, 1], [-1, 0], [0, -1], [0, 1], [1, -1], [-1, 0]])
    source = ParquetSource(paths)
    assert source.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert attributes_of(SubsetSource(source, [4, 0])).values.tolist() == [[1, -1], [1, 1]]
    assert reds(source) == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_a_column_of_lists(tmp_path, kind):
    names = {"attributes": pa.array([["hat", "dog"], None, []], kind(pa.string()))}
    assert attributes(write_columns(tmp_path / "a.parquet", names)) == (("dog", "hat"), [[1, 1], [-1, -1], [0, 0]])
    numbers = {"attributes": pa.array([[10], [], [9, 10]], kind(pa.int32()))}
    path = write_columns(tmp_path / "a.parquet", numbers)
    assert attributes(path) == (("9", "10"), [[0, 1], [0, 0], [1, 1]])
    text = {"attributes": ["hat;dog", None, "dog"]}
    assert attributes(write_columns(tmp_path / "a.parquet", text)) == (("dog", "hat"), [[1, 1], [0, 0], [1, 0]])


def test_lists_of_numbers_take_their_names_from_the_metadata(tmp_path):
    feature = {"attributes": {"feature": {"names": ["zebra", "ape"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    path = write_columns(tmp_path / "a.parquet", {"attributes": [[1], [], [0, 1]]}, metadata)
    assert attributes(path) == (("zebra", "ape"), [[0, 1], [0, 0], [1, 1]])


def test_columns_that_only_sound_like_attributes_are_left_alone(tmp_path):
    structs = {"attributes": [{"color": "red"}, {"color": None}]}
    assert attributes(write_columns(tmp_path / "a.parquet", structs)) is None
    nested = {"attributes": [[{"color": "red"}], []]}
    assert attributes(write_columns(tmp_path / "a.parquet", nested)) is None
    assert attributes(write(tmp_path / "a.parquet", [1, 2], [0, 1])) is None


def test_errors_of_attributes(tmp_path):
    one = write_columns(tmp_path / "x-0.parquet", {"attr:hat": [1, 0]})
    two = write_columns(tmp_path / "x-1.parquet", {"attr:dog": [1, 0]})
    with pytest.raises(InputError, match=r"x-1\.parquet: and .*x-0\.parquet do not both have the column `attr:dog`"):
        ParquetSource([one, two])
    three = write_columns(tmp_path / "x-2.parquet", {"attr:hat": [1, 5]})
    with pytest.raises(InputError, match=r"x-0\.parquet and 1 more, .*: row 4 of column `attr:hat` holds 5; write 1"):
        ParquetSource([one, three])
    both = write_columns(tmp_path / "y.parquet", {"attr:hat": [1, 0], "attributes": [["a"], []]})
    with pytest.raises(InputError, match=r"y\.parquet: has both a column `attributes` and indicators"):
        ParquetSource(both)


def test_missing_bytes_are_a_bad_image(tmp_path):
    source = ParquetSource(write(tmp_path / "train.parquet", [3, None, 4], [0, None, 2]))
    with pytest.raises(BadImageError, match="train/00001: zero bytes"):
        source.image(1)
    assert source.image(2)[0, 0, 0] == 4
    assert source.labels.tolist() == [0, -1, 2]


def held_bytes(source, index):
    """Of the row group that holds an image."""
    source.image(index)
    return next(reversed(source._rows._kept.values())).nbytes


def test_the_cache_is_bounded(folder, monkeypatch):
    source = ParquetSource(folder)
    group = held_bytes(source, 0)
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 2 * group)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(11), 5))
    for index in order.tolist():
        assert source.image(index)[0, 0, 0] == index
        assert sum(held.nbytes for held in source._rows._kept.values()) <= 2 * group
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 0)
    assert reds(source) == list(range(11))
    assert len(source._rows._kept) == 1


def test_the_row_group_used_last_is_kept(folder, monkeypatch):
    source = ParquetSource(folder)
    other = ParquetSource(folder)
    monkeypatch.setattr(row_groups, "CACHE_BYTES", held_bytes(other, 0) + held_bytes(other, 7))
    for index in (0, 3, 1, 7):  # row groups 0, 1, 0 and 3
        source.image(index)
    assert [group for group, _ in source._rows._kept] == [0, 3]


def test_pickles_small_and_reads_on(folder):
    source = ParquetSource(folder)
    reds(source)
    sent = pickle.dumps(source)
    assert len(sent) < 3000
    copy = pickle.loads(sent)  # noqa: S301
    assert reds(copy) == list(range(11))
    assert copy.labels.tolist() == source.labels.tolist()


def test_threads_read_the_same(folder, monkeypatch):
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 0)
    source = ParquetSource(folder)
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda index: int(source.image(index % 11)[0, 0, 0]), range(220)))
    assert values == [index % 11 for index in range(220)]


def test_workers_read_the_same(folder):
    source = ParquetSource(folder)
    reds(source)
    loader = DataLoader(_Reds(source), num_workers=2, batch_size=3)
    assert torch.cat(list(loader)).tolist() == list(range(11))


class _Reds(torch.utils.data.Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return int(self.source.image(index)[0, 0, 0])


def test_whether_a_file_holds_images(folder, tmp_path):
    assert holds_images(folder / "train-00000-of-00002-0f3a.parquet")
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "list.parquet")
    assert not holds_images(tmp_path / "list.parquet")


def test_errors(folder, tmp_path):
    with pytest.raises(InputError, match="holds no split 'test'; choose from train, validation"):
        ParquetSource(folder, split="test")
    with pytest.raises(InputError, match=r"gone\.parquet is missing"):
        ParquetSource(tmp_path / "gone.parquet")
    with pytest.raises(InputError, match="holds no parquet files"):
        ParquetSource(tmp_path)
    with pytest.raises(InputError, match="choose from one file at least"):
        ParquetSource([])

    pq.write_table(pa.table({"picture": [b"x"], "image": ["a.png"]}), tmp_path / "odd.parquet")
    with pytest.raises(InputError, match=r"odd\.parquet: has columns picture, image; name the one"):
        ParquetSource(tmp_path / "odd.parquet")
    empty = write(tmp_path / "empty.parquet", [])
    with pytest.raises(InputError, match="holds no rows"):
        ParquetSource(empty)
    with pytest.raises(InputError, match="has other columns"):
        ParquetSource([empty, tmp_path / "odd.parquet"])
    write(tmp_path / "x-0.parquet", [1], [1])
    write(tmp_path / "x-1.parquet", [1])
    with pytest.raises(InputError, match=r"x-1\.parquet: has no column `label`"):
        ParquetSource([tmp_path / "x-0.parquet", tmp_path / "x-1.parquet"])


def test_ambiguous_splits_are_named(tmp_path):
    for split in ("test", "dev"):
        write(tmp_path / f"{split}-0.parquet", [1])
    with pytest.raises(InputError, match=r"holds the splits dev, test; name one, as in .*:dev"):
        ParquetSource(tmp_path)


def test_a_corrupt_file_is_named(tmp_path):
    path = write(tmp_path / "train.parquet", range(9))
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 3) + data[4 + len(data) // 3 :])
    source = ParquetSource(path)
    with pytest.raises(InputError, match=r"train\.parquet cannot be read .* fetch the file again \(row group 0\)"):
        source.image(0)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cannot be read \(Arrow"):
        ParquetSource(path)


def test_cifar10(cifar10_dir):
    for split, total in (("train", 50_000), ("test", 10_000)):
        source = ParquetSource(cifar10_dir, split=split)
        assert source.name == f"cifar10-{split}"
        assert np.bincount(source.labels).tolist() == [total // 10] * 10
        assert source.classes[:2] == ("airplane", "automobile")
        assert source.image(total - 1).shape == (32, 32, 3)
        assert source.ids[12] == f"{split}/00012"


def test_images_are_at_hand_as_they_are_stored(tmp_path):
    source = ParquetSource(write(tmp_path / "train.parquet", [10, None, 30, 40]))
    assert [source.encoded(index) for index in (0, 1, -1)] == [png(10), None, png(40)]
    assert image_bytes(SubsetSource(source, [3, 0]), 0) == png(40)
    assert image_bytes(digits(), 0) is None


def test_paths_without_images_raise_an_error_that_names_the_remedy(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": None, "path": f"{number}.png"} for number in range(5)], kind)
    file = tmp_path / "paths.parquet"
    pq.write_table(pa.table({"image": rows}), file, row_group_size=2)
    said = r"paths.parquet: its column `image` holds no image, only paths.* a column `path`"
    with pytest.raises(InputError, match=said):
        ParquetSource(file)
    one = pa.concat_arrays([rows.slice(0, 4), pa.array([{"bytes": png(7), "path": "7.png"}], kind)])
    pq.write_table(pa.table({"image": one}), file, row_group_size=2)
    source = ParquetSource(file)
    assert len(source) == 5
    assert source.image(4)[0, 0, 0] == 7
