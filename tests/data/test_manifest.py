import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdclr.data.manifest import ManifestSource
from sdclr.data.sources import SubsetSource, attributes_of, open_source
from sdclr.errors import BadImageError, InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (4 + number, 5), (number * 50, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def manifest(folder, text, name="list.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("column", ["path", "image", "file", "filename", "file_name"])
def test_csv_with_any_known_column(folder, column):
    source = ManifestSource(manifest(folder, f"size,{column}\n1,pictures/2.png\n2,pictures/0.png\n"))
    assert source.name == "list"
    assert list(source.ids) == ["pictures/2.png", "pictures/0.png"]
    assert source.labels is None
    assert source.classes == ()
    assert source.image(0).shape == (5, 6, 3)
    assert source.image(1, min_side=2)[0, 0].tolist() == [0, 0, 0]


def test_csv_with_names_ids_quotes_and_a_byte_order_mark(folder):
    (folder / "pictures" / "0.png").rename(folder / "pictures" / 'a, "b"\nc.png')
    text = 'id, path ,label\r\nx1,"pictures/a, ""b""\nc.png",owl\r\nx2, pictures/1.png,\r\nx3,./pictures/2.png,cat\r\n'
    source = ManifestSource(manifest(folder, text, encoding="utf-8-sig"))
    assert list(source.ids) == ["x1", "x2", "x3"]
    assert source.labels.tolist() == [1, -1, 0]
    assert source.classes == ("cat", "owl")
    assert [source.image(index).shape[1] for index in range(3)] == [4, 5, 6]


def test_parquet_manifest(folder):
    table = pa.table(
        {"file": ["pictures/1.png", "pictures/0.png"], "label": pa.array([4, None], pa.int32()), "other": [1.5, 2.5]}
    )
    pq.write_table(table, folder / "list.parquet")
    source = ManifestSource(folder / "list.parquet")
    assert source.labels.tolist() == [4, -1]
    assert source.image(1).shape == (5, 4, 3)
    assert list(source.ids) == ["pictures/1.png", "pictures/0.png"]


def test_several_labels_an_image_listed_in_csv(folder):
    text = "path,attributes,label\npictures/2.png,hat; dog,4\npictures/0.png,,1\npictures/1.png,cat|dog,\n"
    found = attributes_of(ManifestSource(manifest(folder, text)))
    assert found.names == ("cat", "dog", "hat")
    assert found.values.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]


def test_indicator_columns_of_csv(folder):
    text = "attr:Hat,path,attr:Young\n1,pictures/2.png,-1\n,pictures/0.png,1\n-1,pictures/1.png\n"
    source = ManifestSource(manifest(folder, text))
    assert attributes_of(source).names == ("Hat", "Young")
    assert attributes_of(source).values.tolist() == [[1, 0], [-1, 1], [0, -1]]
    assert attributes_of(SubsetSource(source, [2])).values.tolist() == [[0, -1]]
    assert attributes_of(ManifestSource(manifest(folder, "path\npictures/2.png\n"))) is None


def test_attributes_of_parquet_manifests(folder):
    paths = pa.array(["pictures/1.png", "pictures/0.png", "pictures/2.png"])
    columns = {"attr:hat": pa.array([True, None, False]), "attr:dog": pa.array([0, 1, None], pa.int8())}
    pq.write_table(pa.table({"path": paths, **columns}), folder / "list.parquet")
    assert attributes_of(ManifestSource(folder / "list.parquet")).values.tolist() == [[1, 0], [-1, 1], [0, -1]]
    pq.write_table(pa.table({"path": paths, "attributes": [["b", "a"], None, []]}), folder / "list.parquet")
    assert attributes_of(ManifestSource(folder / "list.parquet")).values.tolist() == [[1, 1], [-1, -1], [0, 0]]


def test_text_lists_with_and_without_classes(folder):
    text = "pictures/1.png 26\npictures/0.png 3\n\n"
    source = ManifestSource(manifest(folder, text, "LT_train.txt"))
    assert list(source.ids) == ["pictures/1.png", "pictures/0.png"]
    assert source.labels.tolist() == [26, 3]

    (folder / "pictures" / "0.png").rename(folder / "pictures" / "my cat.png")
    source = ManifestSource(manifest(folder, "pictures/my cat.png\npictures/1.png\n", "plain.txt"))
    assert source.image(0).shape == (5, 4, 3)
    assert source.labels is None


def test_published_imagenet_100_list(shared_data):
    source = ManifestSource(shared_data / "splits" / "imagenet-100" / "imageNet_100_LT_train.txt", root="/imagenet")
    counts = np.sort(np.bincount(source.labels))[::-1]
    assert (len(source), len(counts), counts[0], counts[-1]) == (12_205, 100, 1280, 6)
    assert source.ids[0].startswith("train/n")


def test_root_and_absolute_paths(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    text = f"path\n2.png\n{folder / 'pictures' / '1.png'}\n{elsewhere / 'out.png'}\n"
    source = ManifestSource(manifest(elsewhere, text), root=folder / "pictures")
    # Below the root an absolute path becomes relative, so that ids are the same on another machine.
    assert list(source.ids) == ["2.png", "1.png", (elsewhere / "out.png").as_posix()]
    assert source.image(1).shape == (5, 5, 3)
    with pytest.raises(BadImageError, match="file is missing"):
        source.image(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.png,1\n", "has columns name, label; name the one that holds the image files `path`"),
        ("", "has columns none"),
        ("path\n", "lists no images"),
        ("path,label\na.png,1\n,2\n", "line 3 has an empty path"),
        ("path\na.png\n./a.png\n", "two images named 'a.png'; remove the repetition"),
        ("path,id\na.png,1\nb.png,1\n", "two images named '1'"),
        ("path,label\na.png,-5\n", "label -5"),
        ("path,attr:hat\na.png,1\nb.png,maybe\n", "row 2 of column `attr:hat` holds 'maybe'; write 1"),
        ("path,attributes,attr:hat\na.png,hat,1\n", "both a column `attributes` and indicators such as `attr:hat`"),
        ("path,attr:hat,attr: hat\na.png,1,0\n", "the column `attr: hat` twice"),
        ("path\n" + "a" * 200_000 + "\n", "is not a CSV table"),
    ],
)
def test_errors_name_the_manifest_and_the_mend(tmp_path, text, message):
    path = manifest(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        ManifestSource(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_errors_of_files(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv is not a file"):
        ManifestSource(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"is not UTF-8 text .* save it as UTF-8"):
        ManifestSource(manifest(tmp_path, "Bild;Größe\nmäuse.png;1\n", encoding="latin-1"))
    (tmp_path / "cut.csv").write_bytes("path\na.png\n".encode("utf-16")[:-1])
    with pytest.raises(InputError, match=r"cut\.csv is not UTF-8 text"):
        ManifestSource(tmp_path / "cut.csv")
    with pytest.raises(InputError, match="does not have the name of a manifest"):
        ManifestSource(manifest(tmp_path, "{}", "list.json"))
    with pytest.raises(InputError, match=r"cannot be read \(Arrow"):
        ManifestSource(manifest(tmp_path, "path", "list.parquet"))


def test_names_of_files_may_be_no_utf8(folder):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "pictures" / "0.png").rename(folder / "pictures" / name)
    path = folder / "list.csv"
    path.write_bytes(b"path,id,label\npictures/caf\xe9.png,caf\xe9.png,cat\npictures/1.png,b,dog\n")
    source = ManifestSource(path)
    assert list(source.ids) == [name, "b"]
    assert source.image(0).shape == (5, 4, 3)
    path.write_bytes(b"path,label\npictures/caf\xe9.png,m\xe4use\n")
    assert ManifestSource(path).classes == ("mäuse",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_tables_of_any_program(folder, delimiter, encoding):
    (folder / "pictures" / "0.png").rename(folder / "pictures" / "größe 1.png")
    rows = [["label", "file"], ["Käfer", "pictures/größe 1.png"], ["a,b;c|d", "pictures/1.png"]]
    text = "\r\n".join(delimiter.join(f'"{field}"' for field in row) for row in rows) + "\r\n"
    name = "list.tsv" if delimiter == "\t" else "list.csv"
    source = ManifestSource(manifest(folder, text, name, encoding))
    assert list(source.ids) == ["pictures/größe 1.png", "pictures/1.png"]
    assert [source.classes[label] for label in source.labels] == ["Käfer", "a,b;c|d"]
    assert source.image(0).shape == (5, 4, 3)


def test_latin_1_is_told(folder):
    from sdclr.progress import reporting_to

    class Told:
        lines: list[str] = []  # noqa: RUF012

        def tell(self, text):
            self.lines.append(text)

    with reporting_to(Told()):
        ManifestSource(manifest(folder, "path,label\npictures/1.png,Käfer\n", encoding="latin-1"))
    assert Told.lines == [f"{folder / 'list.csv'} is not UTF-8; it is read as Latin-1 (Windows-1252)"]


def test_a_text_file_with_a_header_is_a_table(folder):
    source = ManifestSource(manifest(folder, "path\tlabel\npictures/1.png\towl\n", "list.txt"))
    assert (list(source.ids), source.classes) == (["pictures/1.png"], ("owl",))


def test_paths_of_windows(folder):
    text = "path,label\nC:\\data\\pictures\\1.png,a\nc:/data/pictures/2.png,b\npictures\\0.png,c\n"
    source = ManifestSource(manifest(folder, text))
    assert list(source.ids) == ["pictures/1.png", "pictures/2.png", "pictures/0.png"]
    assert [source.image(index).shape[1] for index in range(3)] == [5, 6, 4]
    share = ManifestSource(manifest(folder, "path\n\\\\server\\share\\pictures\\1.png\n"))
    assert list(share.ids) == ["pictures/1.png"]
    with pytest.raises(
        InputError, match=r"list\.csv: line 2 names 'D:.*', of which no part is found below .*root=FOLDER"
    ):
        ManifestSource(manifest(folder, "path\nD:\\elsewhere\\7.png\n"))
    (folder / "a\\b.png").write_bytes((folder / "pictures" / "1.png").read_bytes())
    assert ManifestSource(manifest(folder, "path\na\\b.png\n")).image(0).shape == (5, 5, 3)


def test_a_root_is_named_as_an_option(folder, tmp_path_factory):
    lists = tmp_path_factory.mktemp("lists")
    path = manifest(lists, "path\n1.png\n2.png\n")
    source = open_source(f"{path},root={folder / 'pictures'}")
    assert source.image(0).shape == (5, 5, 3)
    with pytest.raises(InputError, match=r"root=/no such folder is not a folder"):
        open_source(f"{path},root=/no such folder")
    with pytest.raises(InputError, match="only manifests have a root: leave out root="):
        open_source(f"{folder},root={folder}")


def test_a_row_that_is_too_long_is_named_by_its_line(folder):
    with pytest.raises(InputError, match=r"list\.csv: line 4 has more columns than the header; put texts that hold"):
        ManifestSource(manifest(folder, 'path,label\n"pictures/1.png","two\nlines"\npictures/0.png,a,b\n'))


@pytest.mark.parametrize("kind", ["digits", "wds:{}", "hf:{}", "coco:{}"])
def test_a_root_without_a_manifest_is_refused(folder, kind):
    named = kind.format(folder)
    with pytest.raises(InputError, match=f"{named} is not a manifest, and only manifests have a root: leave out root="):
        open_source(f"{named},root={folder}")


def test_an_unknown_option_is_named(folder):
    with pytest.raises(InputError, match=r"has no option 'intensites'; use intensities=LOW,HIGH or root=FOLDER"):
        open_source(f"{folder},intensites=0,4095")
