import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from sdclr.data.parquet import ParquetSource
from sdclr.data.sources import (
    ArraySource,
    FolderSource,
    ManifestSource,
    Source,
    SubsetSource,
    attributes_of,
    cifar,
    digits,
    fingerprint,
    open_source,
)
from sdclr.errors import BadImageError, InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def picture(path, width=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 4), "red").save(path)


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "birds"
    for number, name in enumerate(["owl/b.png", "owl/old/a.PNG", "jay/z.jpeg", "jay/10.png", "jay/9.png"]):
        picture(root / name, width=number + 1)
    (root / "owl" / "notes.txt").write_text("hoot")
    (root / "owl" / ".hidden.png").write_text("")
    picture(root / ".thumbnails" / "x.png")
    return root


def test_array_source():
    source = ArraySource(RGB, labels=[0, 1, 1, -1, 0], name="noise", classes=["a", "b"])
    assert isinstance(source, Source)
    assert len(source) == 5
    assert list(source.ids)[:2] == ["noise/00000", "noise/00001"]
    assert source.labels.tolist() == [0, 1, 1, -1, 0]
    assert source.labels.dtype == np.int64
    assert source.classes == ("a", "b")
    np.testing.assert_array_equal(source.image(3, min_side=1), RGB[3])
    source.image(3)[:] = 0
    assert RGB[3].any()
    with pytest.raises(IndexError):
        source.image(5)


def test_array_source_of_gray_images():
    image = ArraySource(RGB[..., 0]).image(2)
    np.testing.assert_array_equal(image, np.stack([RGB[2, ..., 0]] * 3, axis=-1))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (RGB.astype(np.float32), {}, "type float32; give uint8 images"),
        (RGB.transpose(0, 3, 1, 2), {}, r"shape \(5, 3, 4, 6\)"),
        (RGB[0, 0], {}, r"shape \(6, 3\)"),
        (RGB[:0], {}, r"shape \(0, 4, 6, 3\)"),
        (RGB, {"labels": [0, 1]}, "2 labels for 5 images"),
        (RGB, {"ids": ["a"]}, "1 ids for 5 images"),
        (RGB, {"ids": list("abcda")}, "two images named 'a'"),
        (RGB, {"labels": [0, 1, 2, 3, -7]}, "label -7"),
    ],
)
def test_array_source_refuses(images, options, message):
    with pytest.raises(InputError, match=message):
        ArraySource(images, **options)


def test_subset_source():
    source = ArraySource(RGB, labels=[0, 1, 2, 3, 4], ids=list("abcde"), classes=list("vwxyz"))
    subset = SubsetSource(source, [3, 0])
    assert isinstance(subset, Source)
    assert (subset.name, list(subset.ids), subset.labels.tolist()) == ("array[2]", ["d", "a"], [3, 0])
    assert subset.classes == source.classes
    np.testing.assert_array_equal(subset.image(0), RGB[3])
    nested = SubsetSource(subset, [1], name="one")
    assert (nested.name, list(nested.ids)) == ("one", ["a"])
    np.testing.assert_array_equal(nested.image(0), RGB[0])
    assert SubsetSource(ArraySource(RGB), [1]).labels is None


def test_attributes_come_with_what_is_opened_and_with_its_parts(tmp_path, birds):
    (tmp_path / "list.csv").write_text("path,attr:red\na.png,1\nb.png,0\n")
    source = open_source(tmp_path / "list.csv")
    assert attributes_of(source).values.tolist() == [[1], [0]]
    assert attributes_of(SubsetSource(source, [1])).values.tolist() == [[0]]
    assert attributes_of(open_source(birds)) is None
    assert attributes_of(open_source("digits")) is None


@pytest.mark.parametrize(("indices", "message"), [([5], "index 5"), ([-1], "index -1"), ([1, 1], "repeats index 1")])
def test_subset_source_refuses(indices, message):
    with pytest.raises(InputError, match=message):
        SubsetSource(ArraySource(RGB), indices)


def test_folder_source(birds):
    source = FolderSource(birds)
    assert isinstance(source, Source)
    assert source.name == "birds"
    assert list(source.ids) == ["jay/10.png", "jay/9.png", "jay/z.jpeg", "owl/b.png", "owl/old/a.PNG"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.classes == ("jay", "owl")
    assert [source.image(index).shape[1] for index in range(5)] == [4, 5, 3, 1, 2]
    assert source.skipped == [("owl/notes.txt", "its suffix is not that of an image", False)]


def test_folder_without_classes(birds):
    (birds / "top.gif").write_bytes(b"")
    source = FolderSource(birds)
    assert source.labels is None
    assert source.classes == ()
    with pytest.raises(BadImageError, match=r"top\.gif: zero bytes"):
        source.image(list(source.ids).index("top.gif"))
    assert FolderSource(birds / "owl").labels is None
    for only in ("only/a.png", "only/b.png"):
        picture(birds.parent / "one-folder" / only)
    assert FolderSource(birds.parent / "one-folder").labels is None


def test_folder_links(birds, tmp_path):
    picture(tmp_path / "elsewhere" / "far.png", width=9)
    (birds / "owl" / "loop").symlink_to(birds, target_is_directory=True)
    (birds / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (birds / "owl" / "twin").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (birds / "owl" / "dangling.png").symlink_to(tmp_path / "nothing")
    source = FolderSource(birds)
    assert len(source) == 7
    assert source.image(list(source.ids).index("linked/far.png")).shape[1] == 9
    with pytest.raises(BadImageError, match="file is missing"):
        source.image(list(source.ids).index("owl/dangling.png"))


def test_folders_that_cannot_be_read_are_listed(birds, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("jay"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = FolderSource(birds)
    assert list(source.ids) == ["owl/b.png", "owl/old/a.PNG"]
    assert ("jay", "folder cannot be read", False) in source.skipped


def test_file_names_that_are_not_utf8(tmp_path):
    try:
        picture(tmp_path / "a.png")
        (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/m\xe4use.png"))
    except OSError:
        pytest.skip("the file system allows UTF-8 only")
    source = FolderSource(tmp_path)
    assert source.image(0).shape == (4, 4, 3)
    assert len(fingerprint(source)) == 64


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images; give a folder"):
        FolderSource(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="holds no images; 1 other files are there"):
        FolderSource(tmp_path)
    with pytest.raises(InputError, match=r"a\.txt is not a folder"):
        FolderSource(tmp_path / "a.txt")


def test_digits():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1297, 500)
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert train.classes == tuple("0123456789")
    assert train.name == "digits-train"
    assert sorted([*train.ids, *test.ids]) == [f"digits/{index:04d}" for index in range(1797)]
    data = load_digits()
    for source in (train, test):
        for index in (0, 7, 499):
            original = int(source.ids[index].split("/")[1])
            np.testing.assert_allclose(source.image(index)[..., 1], data.images[original] * 255 / 16, atol=0.5)
            assert source.labels[index] == data.target[original]
    with pytest.raises(InputError, match="digits: has no split 'val'"):
        digits("val")


def test_digits_are_split_the_same_everywhere():
    assert fingerprint(digits("test")) == "c36f0f8069f9e55dfd29343b1db9565b988c2c0ff28ba44bd1b0be9c396378b2"


def write_cifar(root, monkeypatch):
    """A copy in torchvision's layout, 3 training and 2 test images, without check sums."""
    place = root / "cifar-10-batches-py"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name, labels in (("data_batch_1", [6, 9, 9]), ("test_batch", [3, 8])):
        rows = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (place / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{k}" for k in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)
    return pickle.loads((place / "test_batch").read_bytes())["data"]  # noqa: S301


def test_cifar(tmp_path, monkeypatch):
    rows = write_cifar(tmp_path, monkeypatch)
    train, test = cifar(tmp_path), cifar(tmp_path, split="test")
    assert (train.name, list(train.ids)) == ("cifar10-train", ["train/00000", "train/00001", "train/00002"])
    assert train.labels.tolist() == [6, 9, 9]
    assert test.classes[3] == "class3"
    np.testing.assert_array_equal(test.image(1), rows[1].reshape(3, 32, 32).transpose(1, 2, 0))
    assert open_source(f"cifar10:{tmp_path}:test").labels.tolist() == [3, 8]
    assert open_source(f"cifar10:{tmp_path}", split="test").name == "cifar10-test"
    assert open_source(f"cifar10:{tmp_path}").name == "cifar10-train"


def test_cifar_errors(tmp_path):
    with pytest.raises(InputError, match=r"does not hold the files of cifar100 .*fetch them .*download=True"):
        open_source(f"cifar100:{tmp_path}")
    with pytest.raises(InputError, match="cifar10: has no split 'val'"):
        cifar(tmp_path, split="val")
    with pytest.raises(InputError, match="stl10 is not known here"):
        cifar(tmp_path, "stl10")


def parquet_file(path, *, images=True):
    path.parent.mkdir(exist_ok=True, parents=True)
    column = pa.array([b"x"], pa.binary()) if images else pa.array(["a.png"])
    pq.write_table(pa.table({"image": column}), path)
    return path


def test_open_source_takes_what_is_open_already():
    source = digits()
    assert open_source(source) is source
    assert open_source(RGB).name == "array"
    with pytest.raises(InputError, match="int is not a source"):
        open_source(3)


def test_open_source_by_name(birds, tmp_path):
    assert open_source("digits").name == "digits-train"
    assert open_source("digits:test").name == "digits-test"
    assert open_source("digits", split="test").name == "digits-test"
    assert isinstance(open_source(birds), FolderSource)
    assert isinstance(open_source(str(birds)), FolderSource)
    (tmp_path / "list.csv").write_text("path\na.png\n")
    assert isinstance(open_source(tmp_path / "list.csv"), ManifestSource)
    assert isinstance(open_source(parquet_file(tmp_path / "list.parquet", images=False)), ManifestSource)
    assert isinstance(open_source(parquet_file(tmp_path / "packed.parquet")), ParquetSource)


def test_open_source_of_a_folder_of_parquet_files(tmp_path):
    root = tmp_path / "set"
    for split in ("train", "test"):
        parquet_file(root / f"{split}-00000-of-00001.parquet")
    assert open_source(root).name == "set-train"
    assert open_source(f"{root}:test").name == "set-test"
    assert open_source(root, split="test").name == "set-test"
    with pytest.raises(InputError, match="holds no split 'val'"):
        open_source(f"{root}:val")


def test_open_source_of_a_folder_with_splits(tmp_path):
    for name in ("train/owl/a.png", "train/jay/b.png", "val/owl/c.png", "val/jay/d.png"):
        picture(tmp_path / name)
    assert list(open_source(tmp_path).ids) == ["jay/b.png", "owl/a.png"]
    assert open_source(tmp_path).classes == ("jay", "owl")
    assert list(open_source(f"{tmp_path}:val").ids) == ["jay/d.png", "owl/c.png"]
    with pytest.raises(InputError, match=r"holds no split 'test'; it has the folders train, val"):
        open_source(tmp_path, split="test")
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(InputError, match=r"holds the splits test, val; name one, as in .*:test"):
        open_source(tmp_path)


def test_open_source_of_paths_with_a_colon(tmp_path):
    picture(tmp_path / "a:b" / "x.png")
    assert len(open_source(tmp_path / "a:b")) == 1
    picture(tmp_path / "a" / "b" / "y.png")
    assert list(open_source(f"{tmp_path}/a:b").ids) == ["x.png"]
    (tmp_path / "a:b" / "x.png").unlink()
    (tmp_path / "a:b").rmdir()
    assert list(open_source(f"{tmp_path}/a:b").ids) == ["y.png"]


def test_open_source_errors(tmp_path, birds):
    with pytest.raises(InputError, match=r"gone does not exist; give an existing path, or digits"):
        open_source(tmp_path / "gone")
    with pytest.raises(InputError, match="gone:test does not exist"):
        open_source(f"{tmp_path}/gone:test")
    with pytest.raises(InputError, match="digits:test: names the split 'test', but 'train' is asked for too"):
        open_source("digits:test", split="train")
    with pytest.raises(InputError, match="is neither a folder nor"):
        open_source(birds / "owl" / "b.png")
    (tmp_path / "list.csv").write_text("path\na.png\n")
    with pytest.raises(InputError, match="a manifest has no split 'test'; give one manifest for each split"):
        open_source(tmp_path / "list.csv", split="test")


def test_fingerprint_sees_order_names_and_number():
    def of(ids):
        return fingerprint(ArraySource(RGB[: len(ids)], ids=ids))

    assert of(["a", "b"]) == of(["a", "b"])
    assert len({of(ids) for ids in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", "c"], ["a", "bc"], ["ab", "c"])}) == 6


def test_published_cifar_lists_do_not_fit_the_parquet_order(cifar10_dir, shared_data):
    # This copy is sorted by class, and the lists count in the original order: hence the warning of `load_index_list`.
    labels = ParquetSource(cifar10_dir, split="train").labels
    assert (np.diff(labels) >= 0).all()
    lists = shared_data / "splits" / "cifar10_imbSub_with_subsets"
    counts = np.bincount(labels[np.load(lists / "split1_D_i.npy")])
    assert counts.max() < 2 * counts.min()


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name):
    with pytest.raises(InputError, match="an empty name is not a source of images"):
        open_source(name)
