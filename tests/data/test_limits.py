"""Files that claim or expand to more than memory holds end in one line, and honest large ones are read."""

import io
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdclr import limits
from sdclr.data import row_groups
from sdclr.data.manifest import ManifestSource
from sdclr.data.parquet import ParquetSource
from sdclr.errors import DamagedFileError, InputError
from sdclr.features.embeddings import read_embeddings


def refused(call, *words):
    begun = time.process_time()
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message, message
    assert time.process_time() - begun < 20


def png(value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def repeated(value, count):
    """A column that stores one value once, however often it occurs."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def test_a_limit_is_read_from_its_variable(monkeypatch):
    rows = limits.Limit("SDCLR_MAX_ROWS", 10, 1)
    assert rows.value == 10
    rows.check(10, "a.csv: has {} rows")
    refused(
        lambda: rows.check(1234, "a.csv: has {} rows"), "a.csv: has 1,234 rows", "limit of 10", "SDCLR_MAX_ROWS=1234"
    )
    for text, value in (("20", 20), ("3k", 3072), ("2M", 2 * 2**20), ("1G", 2**30), ("", 10)):
        monkeypatch.setenv("SDCLR_MAX_ROWS", text)
        assert rows.value == value
    for text in ("0", "-1", "many", "1.5", "1T", "9" * 100_000, "\u0663"):
        monkeypatch.setenv("SDCLR_MAX_ROWS", text)
        refused(lambda: rows.value, "SDCLR_MAX_ROWS", "whole number")


def test_every_limit_has_a_variable_of_its_own():
    assert len({limit.variable for limit in limits.LIMITS}) == len(limits.LIMITS)
    assert all(limit.variable.startswith("SDCLR_") and limit.default >= limit.least for limit in limits.LIMITS)


def test_too_many_rows(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"path": repeated("a", 11_000_000)}), path)
    assert path.stat().st_size < 100_000
    refused(lambda: ManifestSource(path), "rows.parquet", "11,000,000 rows", "10,000,000", "SDCLR_MAX_ROWS=11000000")
    monkeypatch.setenv("SDCLR_MAX_ROWS", "2")
    for name, text in (("a.csv", "path\na\nb\nc\n"), ("a.txt", "a 0\nb 0\nc 1\n")):
        (tmp_path / name).write_text(text)
        refused(lambda name=name: ManifestSource(tmp_path / name), name, "3 rows", "limit of 2")


def test_too_many_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCLR_MAX_COLUMNS", "3")
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({name: ["a"] for name in ("path", "b", "c", "d")}), path)
    refused(lambda: ManifestSource(path), "wide.parquet", "4 columns", "limit of 3", "SDCLR_MAX_COLUMNS=4")


@pytest.mark.parametrize("column", ["path", "label", "id"])
def test_long_texts(tmp_path, column):
    path = tmp_path / "texts.parquet"
    columns = {name: repeated("a", 1000) for name in ("path", "label", "id")}
    columns[column] = repeated("x" * 5_000_000, 1000)
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 20_000
    refused(lambda: ManifestSource(path), "texts.parquet", f"`{column}`", "5,000,000 bytes", "SDCLR_MAX_TEXT=5000000")


def test_texts_that_are_many_times_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCLR_MAX_TABLE", "64M")
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"path": repeated("x" * 60_000, 2000)}), path, compression="zstd")
    refused(lambda: ManifestSource(path), "texts.parquet", "`path`", "bytes", "SDCLR_MAX_TABLE")


def test_embeddings_of_nothing_but_zeros(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCLR_MAX_TABLE", "16M")
    for name, rows, words in (
        ("many", 40, "takes 9,600,000 bytes"),
        ("more", 80, "takes 19,200,000 bytes"),
    ):
        path = tmp_path / f"{name}.parquet"
        values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 60_000, np.float32)), 60_000)
        pq.write_table(pa.table({"embedding": values}), path, compression="zstd")
        assert path.stat().st_size < 20_000
        monkeypatch.setenv("SDCLR_MAX_TABLE", "16M" if name == "more" else "9M")
        refused(lambda path=path: read_embeddings(path), path.name, words, "SDCLR_MAX_TABLE=")


def test_categories_of_numbers_are_numbers(tmp_path):
    path = tmp_path / "categories.parquet"
    labels = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1]), pa.array([30, 7]))
    pq.write_table(pa.table({"path": list("abcd"), "label": labels}), path)
    assert ManifestSource(path).labels.tolist() == [7, 30, -1, 7]


def test_long_vectors(tmp_path):
    for name, kind in (("fixed", pa.list_(pa.float32(), 100_000)), ("free", pa.list_(pa.float32()))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"embedding": pa.array([np.ones(100_000, np.float32)] * 2, kind)}), path)
        refused(lambda path=path: read_embeddings(path), path.name, "100,000 values", "SDCLR_MAX_LIST=100000")


def test_images_that_are_one_image_many_times(tmp_path):
    """Stored once, held once."""
    path = tmp_path / "images.parquet"
    table = pa.table({"image": repeated(png() + bytes(20_000_000), 500)})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 20_000  # of 10 GB
    script = (
        "import resource, sys; from sdclr.data.parquet import ParquetSource; source = ParquetSource(sys.argv[1]);"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "assert [source.image(i).shape for i in range(0, 500, 99)] == [(4, 4, 3)] * 6;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 * 1024


def test_lists_of_texts_that_repeat(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCLR_MAX_TABLE", "64M")
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 4004, 4, dtype=np.int32)), repeated("x" * 60_000, 4000))
    path = tmp_path / "lists.parquet"
    table = pa.table({"path": [f"{row}.png" for row in range(1000)], "attributes": lists})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    refused(lambda: ManifestSource(path), "lists.parquet", "`attributes`", "SDCLR_MAX_TABLE")


def test_many_different_ids_take_linear_time(tmp_path):
    path = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"path": [f"photos/{row:07d}.jpg" for row in range(200_000)]}), path)
    begun = time.process_time()
    assert ManifestSource(path).ids[-1] == "photos/0199999.jpg"
    assert time.process_time() - begun < 10


def large_group(tmp_path, monkeypatch, count=400):
    monkeypatch.setenv("SDCLR_MAX_ROW_GROUP", "1M")
    rng = np.random.default_rng(0)
    images = [png(number % 256) + rng.bytes(10_000) for number in range(count)]
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"image": pa.array(images)}), path, use_dictionary=False)
    return path, images


def test_a_large_row_group_is_read_in_order(tmp_path, monkeypatch):
    path, images = large_group(tmp_path, monkeypatch)
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 2**20)
    source = ParquetSource(path)
    for index in range(len(images)):
        assert source.encoded(index) == images[index]
        assert sum(held.nbytes for held in source._rows._kept.values()) < 3 * 2**20
    assert [source.encoded(index) for index in (399, 7, 250)] == [images[index] for index in (399, 7, 250)]
    assert source.stored(399)[:2] == (path, 399)


def test_a_large_row_group_in_random_order_says_what_to_do(tmp_path, monkeypatch):
    path, images = large_group(tmp_path, monkeypatch)
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 2**20)
    source = ParquetSource(path)

    def read():
        for index in np.random.default_rng(0).permutation(len(images)).tolist():
            assert source.encoded(index) == images[index]

    refused(read, "large.parquet", "row_group_size=100", "SDCLR_MAX_ROW_GROUP=")
    monkeypatch.setenv("SDCLR_MAX_ROW_GROUP", "100M")
    read()


def test_many_attributes(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCLR_MAX_TABLE", "1M")
    path = tmp_path / "attributes.parquet"
    columns = {f"attr:{number}": repeated(1, 2000) for number in range(100)}
    pq.write_table(pa.table({"path": [f"{row}.png" for row in range(2000)], **columns}), path)
    refused(lambda: ManifestSource(path), "attributes.parquet", "attributes", "1,600,000 bytes", "SDCLR_MAX_TABLE")


@pytest.mark.slow
def test_honest_large_collections_stay_below_the_limits(tmp_path):
    """A million embeddings of 384 numbers, and 100,000 JPEGs in one row group, as pandas writes them."""
    path = tmp_path / "embeddings.parquet"
    rng = np.random.default_rng(0)
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), 384))])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for begin in range(0, 1_000_000, 50_000):
            values = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(50_000 * 384, dtype=np.float32)), 384)
            ids = [f"photos/{row:07d}.jpg" for row in range(begin, begin + 50_000)]
            writer.write_table(pa.table({"id": ids, "embedding": values}, schema=schema))
    found = read_embeddings(path)
    assert (len(found.ids), *found.values.shape) == (1_000_000, 1_000_000, 384)
    del found
    path.unlink()
    images = tmp_path / "images.parquet"
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(buffer, "JPEG")
    jpegs = [buffer.getvalue() + number.to_bytes(4, "big") + rng.bytes(8000) for number in range(100_000)]
    pq.write_table(pa.table({"image": jpegs}), images, row_group_size=len(jpegs))
    source = ParquetSource(images)
    for index in range(0, len(jpegs), 977):
        assert source.encoded(index) == jpegs[index]


def test_a_column_that_ends_early_is_damage(tmp_path, monkeypatch):
    """Arrow gives fewer rows than a damaged column has, without an error."""
    file = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": ["a.png", "b.png", "c.png"], "id": ["a", "b", "c"]}), file)
    whole = pq.ParquetFile.iter_batches

    def early(self, *, columns, **options):
        batches = whole(self, columns=columns, **options)
        return (batch.slice(0, len(batch) - (columns == ["id"])) for batch in batches)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", early)
    with pytest.raises(DamagedFileError, match=r"m\.parquet.*row group 0 has 3 rows, but 2 of them can be read"):
        ManifestSource(file)
