"""Embeddings of every origin: what is read is what was written, and what cannot be used is one clear line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdclr.errors import BadImageError, InputError
from sdclr.features.embeddings import (
    ABOUT,
    ID_COLUMNS,
    VALUE_COLUMNS,
    EmbeddedImages,
    embedding_files,
    embeddings_of,
    read_embeddings,
)

VALUES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IDS = ["a.png", "b.png", "sub/c.png", "d.png", "e.png"]


def written(file, values, ids=IDS, *, id_column="id", value_column="embedding", about=None):
    """A Parquet file of vectors, as any tool may write it."""
    columns = {} if ids is None else {id_column: ids}
    table = pa.table({**columns, value_column: values})
    pq.write_table(table.replace_schema_metadata(about), file)
    return file


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(path)
    assert "\n" not in str(caught.value)


class TestParquet:
    @pytest.mark.parametrize("id_column", ID_COLUMNS)
    @pytest.mark.parametrize("value_column", VALUE_COLUMNS)
    def test_the_columns_of_other_tools_are_known(self, tmp_path, id_column, value_column):
        file = written(tmp_path / "e.parquet", VALUES.tolist(), id_column=id_column, value_column=value_column)
        found = read_embeddings(file)
        assert (found.ids, found.name, found.folder, found.about) == (IDS, "e.parquet", tmp_path, {})
        np.testing.assert_array_equal(found.values, VALUES)
        assert not found.numbered

    @pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.int64(), pa.uint16()])
    @pytest.mark.parametrize("shape", ["list", "large", "fixed"])
    def test_numbers_of_every_kind_become_float32(self, tmp_path, kind, shape):
        whole = np.arange(15, dtype=np.float32).reshape(5, 3) + 1
        flat = pa.array(whole.reshape(-1).astype(kind.to_pandas_dtype()), kind)
        column = {
            "list": lambda: pa.ListArray.from_arrays(pa.array(range(0, 16, 3), pa.int32()), flat),
            "large": lambda: pa.LargeListArray.from_arrays(pa.array(range(0, 16, 3), pa.int64()), flat),
            "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, 3),
        }[shape]()
        found = read_embeddings(written(tmp_path / "e.parquet", column))
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.values, whole)

    def test_row_groups_are_put_together(self, tmp_path):
        pq.write_table(pa.table({"id": IDS, "embedding": VALUES.tolist()}), tmp_path / "e.parquet", row_group_size=2)
        np.testing.assert_array_equal(read_embeddings(tmp_path / "e.parquet").values, VALUES)

    def test_ids_may_be_numbers_and_may_be_absent(self, tmp_path):
        found = read_embeddings(written(tmp_path / "e.parquet", VALUES.tolist(), [7, 8, 9, 10, 11]))
        assert found.ids == ["7", "8", "9", "10", "11"]
        found = read_embeddings(written(tmp_path / "e.parquet", VALUES.tolist(), None))
        assert (found.ids, found.numbered) == (["0", "1", "2", "3", "4"], True)

    def test_an_image_column_of_bytes_is_not_taken_for_ids_or_vectors(self, tmp_path):
        images = pa.array([{"bytes": b"x", "path": name} for name in IDS])
        pq.write_table(pa.table({"image": images, "label": [0] * 5}), tmp_path / "images.parquet")
        assert embedding_files(tmp_path / "images.parquet") == []
        refused(tmp_path / "images.parquet", "holds no embeddings: give a .npy file, or a Parquet file with a column")

    def test_what_sdclr_says_about_them_is_kept_and_damaged_words_are_passed_over(self, tmp_path):
        about = {"encoder": "abc", "origin": "timm:x"}
        file = written(tmp_path / "e.parquet", VALUES.tolist(), about={ABOUT: json.dumps(about)})
        assert read_embeddings(file).about == about
        for damaged in (b"{", b"[]"):
            file = written(tmp_path / "e.parquet", VALUES.tolist(), about={ABOUT: damaged})
            assert read_embeddings(file).about == {}

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([[1.0, 2.0], [1.0], [1.0, 2.0], [0.5, 1.0], [2.0, 2.0]], "2 numbers in row 0, 1 in row 1: embed all"),
            ([[1.0, 2.0], None, [1.0, 2.0], [0.5, 1.0], [2.0, 2.0]], "1 rows have no vector: leave these images out"),
            ([[1.0, None], [1.0, 1.0], [1.0, 2.0], [0.5, 1.0], [2.0, 2.0]], "vectors hold missing numbers"),
            ([["x"]] * 5, "vectors hold string: give numbers"),
            ([[]] * 5, "vectors hold null: give numbers"),
            (pa.array([[]] * 5, pa.list_(pa.float32())), r"is an array of float32 \(5, 0\): give numbers \(N, D\)"),
            ([[1.0, np.nan], *[[1.0, 2.0]] * 4], r"1 of 5 vectors hold a number that is not finite.*row 0 \('a.png'\)"),
            ([*[[1.0, 2.0]] * 4, [np.inf, 1.0]], r"not finite, the first: row 4 \('e.png'\)"),
            ([*[[1.0, 2.0]] * 3, [0.0, 0.0], [0.0, 0.0]], r"2 of 5 vectors hold zeros only, the first: row 3"),
            ([[1e300, 1.0], *[[1.0, 2.0]] * 4], "not finite, the first: row 0"),
        ],
    )
    def test_vectors_that_cannot_be_used(self, tmp_path, values, message):
        refused(written(tmp_path / "e.parquet", values), message)

    def test_a_fixed_length_does_not_hide_missing_vectors(self, tmp_path):
        column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
        try:
            file = written(tmp_path / "e.parquet", column, ["a", "b", "c"])
        except pa.ArrowNotImplementedError:
            pytest.skip("this pyarrow cannot write missing lists of a fixed length")
        refused(file, "1 rows have no vector")

    def test_ids_that_repeat(self, tmp_path):
        file = written(tmp_path / "e.parquet", VALUES.tolist(), ["a", "b", "c", "b", "a"])
        refused(file, "the id 'b' occurs twice: give each image one row")

    def test_a_file_without_rows(self, tmp_path):
        column = pa.array([], pa.list_(pa.float32()))
        refused(written(tmp_path / "e.parquet", column, pa.array([], pa.string())), "holds no rows: embed again")

    def test_a_damaged_file(self, tmp_path):
        file = written(tmp_path / "e.parquet", VALUES.tolist())
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        refused(file, "e.parquet")
        begin = whole.find(VALUES.tobytes()[:8])
        file.write_bytes(whole[:4] + bytes(begin + 40) + whole[begin + 44 :])
        refused(file, "e.parquet cannot be read")


class TestShards:
    def shards(self, folder, count=2):
        folder.mkdir()
        for shard, rows in enumerate(np.array_split(np.arange(5), count)):
            name = f"embeddings-{shard:05d}-of-{count:05d}.parquet"
            written(folder / name, VALUES[rows].tolist(), [IDS[row] for row in rows])
        return folder

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_they_are_read_in_order(self, tmp_path, count):
        found = read_embeddings(self.shards(tmp_path / "e", count))
        assert (found.ids, found.name, found.folder) == (IDS, "e", tmp_path / "e")
        np.testing.assert_array_equal(found.values, VALUES)

    def test_files_of_other_tools_are_read_in_the_order_of_their_names(self, tmp_path):
        for number, rows in enumerate(np.array_split(np.arange(5), 3)):
            written(tmp_path / f"part-{number}-0.parquet", VALUES[rows].tolist(), [IDS[row] for row in rows])
        found = read_embeddings(tmp_path)
        assert found.ids == IDS
        np.testing.assert_array_equal(found.values, VALUES)

    def test_a_folder_in_which_a_table_has_no_vectors_holds_no_embeddings(self, tmp_path):
        written(tmp_path / "a.parquet", VALUES.tolist(), IDS)
        pq.write_table(pa.table({"id": IDS}), tmp_path / "b.parquet")
        refused(tmp_path, "holds no embeddings")

    def test_a_missing_one_is_noticed(self, tmp_path):
        folder = self.shards(tmp_path / "e", 2)
        (folder / "embeddings-00001-of-00002.parquet").unlink()
        refused(folder, "holds 1 shards of embeddings, not 00002: embed again")

    def test_shards_of_two_encoders(self, tmp_path):
        folder = self.shards(tmp_path / "e", 2)
        written(folder / "embeddings-00001-of-00002.parquet", [[1.0, 2.0]], ["z.png"])
        refused(folder, "holds vectors of 2 and 3 numbers: embed again")

    def test_an_image_in_two_shards(self, tmp_path):
        folder = self.shards(tmp_path / "e", 2)
        written(folder / "embeddings-00001-of-00002.parquet", VALUES[:1].tolist(), IDS[:1])
        refused(folder, r"the id 'a\.png' occurs twice")


class TestNumpy:
    @pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "u1", ">f4"])
    def test_rows_are_told_by_their_number(self, tmp_path, kind):
        values = (np.arange(36).reshape(12, 3) + 1).astype(kind)
        np.save(tmp_path / "rows.npy", values)
        found = read_embeddings(tmp_path / "rows.npy")
        assert found.ids[:2] == ["00", "01"]
        assert found.numbered
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.values, values.astype(np.float32))

    def test_what_is_done_with_them_does_not_change_the_file(self, tmp_path):
        np.save(tmp_path / "rows.npy", VALUES)
        before = (tmp_path / "rows.npy").read_bytes()
        found = read_embeddings(tmp_path / "rows.npy")
        assert found.values.flags.writeable  # torch warns otherwise
        found.values[0] = 7
        del found
        assert (tmp_path / "rows.npy").read_bytes() == before

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.ones(4), r"array of float64 \(4,\): give numbers \(N, D\), a row for each image"),
            (np.ones((2, 3, 4)), r"\(2, 3, 4\)"),
            (np.ones((0, 4)), r"\(0, 4\)"),
            (np.array([["a", "b"]]), "give numbers"),
            (np.ones((2, 2), dtype=complex), "complex128"),
            (np.array([[1, np.nan]]), r"not finite, the first: row 0 \('0'\)"),
        ],
    )
    def test_arrays_that_are_no_embeddings(self, tmp_path, values, message):
        np.save(tmp_path / "rows.npy", values)
        refused(tmp_path / "rows.npy", message)

    def test_pickles_are_not_opened(self, tmp_path):
        np.save(tmp_path / "rows.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        refused(tmp_path / "rows.npy", r"rows\.npy cannot be read .*: save it with np\.save")

    @pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
    def test_damaged_files(self, tmp_path, content):
        (tmp_path / "rows.npy").write_bytes(content)
        refused(tmp_path / "rows.npy", r"rows\.npy cannot be read")

    def test_a_file_that_was_cut_off(self, tmp_path):
        np.save(tmp_path / "rows.npy", VALUES)
        whole = (tmp_path / "rows.npy").read_bytes()
        (tmp_path / "rows.npy").write_bytes(whole[:-8])
        refused(tmp_path / "rows.npy", r"rows\.npy cannot be read")


def test_what_holds_no_embeddings(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "folder").mkdir()
    for name in ("notes.txt", "folder", "absent.parquet", "absent.npy"):
        assert embedding_files(tmp_path / name) == []
        refused(tmp_path / name, f"{name} holds no embeddings: .*`sdclr embed IMAGES --out")


class TestOf:
    def test_by_id_in_the_order_asked(self):
        found = embeddings_of(VALUES, IDS).of(["d.png", "a.png"], "images")
        np.testing.assert_array_equal(found, VALUES[[3, 0]])

    def test_wrong_ids_show_what_ids_there_are(self):
        with pytest.raises(
            InputError, match=r"for 1 of 2 images of cats, the first: 'z\.png'; its ids look like 'a\.png'"
        ):
            embeddings_of(VALUES, IDS).of(["a.png", "z.png"], "cats")

    def test_without_ids_by_position(self):
        numbered = embeddings_of(VALUES)
        np.testing.assert_array_equal(numbered.of(list("vwxyz"), "images"), VALUES)
        with pytest.raises(InputError, match="has 5 rows without ids, but images has 2 images: give one row"):
            numbered.of(["a", "b"], "images")

    def test_the_vectors_of_all_images_are_not_copied(self):
        found = embeddings_of(VALUES, IDS)
        assert found.of(found.ids, "images") is found.values

    def test_ids_for_every_row(self):
        with pytest.raises(InputError, match="x has 4 ids for 5 rows: give one id for each"):
            embeddings_of(VALUES, IDS[:4], name="x")

    def test_arrays_that_may_not_be_written_to(self):
        fixed = VALUES.copy()
        fixed.flags.writeable = False
        found = embeddings_of(fixed)
        assert found.values.flags.writeable
        np.testing.assert_array_equal(found.values, VALUES)


class TestEmbeddedImages:
    def test_pictures_are_found_as_named_beside_the_file_or_under_the_root(self, tmp_path, monkeypatch):
        (tmp_path / "beside" / "sub").mkdir(parents=True)
        (tmp_path / "root").mkdir()
        monkeypatch.chdir(tmp_path / "root")
        for gray, file in ((10, "beside/a.png"), (20, "beside/sub/c.png"), (30, "root/b.png")):
            Image.new("RGB", (4, 4), (gray,) * 3).save(tmp_path / file)
        Image.new("RGB", (4, 4), (40,) * 3).save(tmp_path / "d.png")
        ids = ["a.png", "b.png", "sub/c.png", "d.png", "e.png"]
        file = written(tmp_path / "beside" / "e.parquet", VALUES.tolist(), ids)
        images = EmbeddedImages(read_embeddings(file), root=tmp_path)
        assert [int(images.image(row)[0, 0, 0]) for row in range(4)] == [10, 30, 20, 40]
        assert images.file(4) is None
        with pytest.raises(BadImageError, match="name no image file that can be found"):
            images.image(4)

    def test_rows_without_ids_name_no_files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "0").write_bytes(b"a file that happens to be called like a row")
        assert EmbeddedImages(embeddings_of(VALUES)).file(0) is None
