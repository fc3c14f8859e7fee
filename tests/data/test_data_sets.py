"""Data sets of torch and of Hugging Face's `datasets` as sources, without a network."""

import socket
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import sdclr
from sdclr.data.hugging_face import HuggingFaceSource
from sdclr.data.parquet import ParquetSource
from sdclr.data.scan import scan
from sdclr.data.shards import ShardSource
from sdclr.data.sources import fingerprint, open_source
from sdclr.data.torch_dataset import TorchSource
from sdclr.errors import BadImageError, InputError
from sdclr.loading.streaming import StreamLoader

PIXELS = [
    np.random.default_rng(number).integers(0, 256, (12, 10 + number % 3, 3), dtype=np.uint8) for number in range(9)
]


@pytest.fixture(autouse=True)
def _without_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def flowers():
    features = {
        "x": datasets.Value("string"),
        "photo": datasets.Image(),
        "kind": datasets.ClassLabel(names=["a", "b", "c"]),
    }
    rows = {"x": ["y"] * 9, "photo": [Image.fromarray(image) for image in PIXELS], "kind": [i % 3 for i in range(9)]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def checked(source, *, classes=("a", "b", "c")):
    assert len(source) == 9
    assert source.labels.tolist() == [0, 1, 2] * 3
    assert source.classes == classes
    assert len(set(source.ids)) == 9
    assert all(np.array_equal(source.image(index), PIXELS[index]) for index in range(9))
    return source


def test_a_data_set_is_a_source(flowers):
    source = checked(open_source(flowers))
    assert isinstance(source, HuggingFaceSource)
    assert list(source.ids[:2]) == ["dataset/00000", "dataset/00001"]
    assert list(checked(open_source(flowers.with_format("torch"))).ids) == list(source.ids)
    assert checked(HuggingFaceSource(flowers, image="photo", label="kind")).encoded(3)[:4] == b"\x89PNG"
    assert HuggingFaceSource(flowers, label="x").classes == ("y",)
    told = sdclr.inspect_images(flowers)
    assert (told.formats, told.kind) == ({"PNG": 9}, "data set of datasets")


def test_folders_of_datasets(flowers, tmp_path):
    flowers.save_to_disk(str(tmp_path / "saved"))
    checked(open_source(f"hf:{tmp_path / 'saved'}"))
    both = datasets.DatasetDict(train=flowers, test=flowers.select(range(4)))
    both.save_to_disk(str(tmp_path / "both"))
    assert checked(open_source(f"hf:{tmp_path / 'both'}")).ids[0] == "train/00000"
    assert open_source(f"hf:{tmp_path / 'both'}:test").ids[3] == "test/00003"
    (tmp_path / "table" / "data").mkdir(parents=True)
    flowers.to_parquet(str(tmp_path / "table" / "data" / "train-00000.parquet"))
    for spec in (f"hf:{tmp_path / 'table'}", tmp_path / "table", f"hf:{tmp_path / 'table'},image=photo,label=kind"):
        assert isinstance(checked(open_source(spec)), ParquetSource)
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    (tmp_path / "arrow").mkdir()
    (tmp_path / "arrow" / arrow.name).write_bytes(arrow.read_bytes())
    checked(open_source(f"hf:{tmp_path / 'arrow'},image=photo,label=kind"))


def test_an_imagefolder(tmp_path):
    for number, pixels in enumerate(PIXELS):
        file = tmp_path / "images" / "train" / "abc"[number // 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    source = open_source(f"hf:{tmp_path / 'images'}")
    assert (source.labels.tolist(), source.classes) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], ("a", "b", "c"))
    assert source.file(4) == tmp_path / "images" / "train" / "b" / "4.png"
    assert source.stored(4).file == source.file(4)
    source.file(4).unlink()
    assert [(item.id, item.reason) for item in scan(source)] == [("train/00004", "file is missing")]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "hf:owner/name",
            "nothing is fetched from the hub; fetch it first .hf download --repo-type dataset owner/name",
        ),
        ("hf:{},image=z", "has no column 'z'; it has x, photo, kind; name the columns, as in hf:FOLDER,image=photo"),
        ("hf:{},label=z", "has no column 'z'"),
        ("hf:{},image=kind", "the column 'kind' holds ClassLabel"),
        ("hf:{},margin=1", "has no option 'margin'; use image and label"),
        ("hf:{}:val", "holds no split 'val'; name one of saved"),
        ("hf:{}/..", "datasets cannot read it"),
    ],
)
def test_what_cannot_be_opened_is_one_line(flowers, tmp_path, spec, said):
    flowers.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").replace(tmp_path / "saved" / "state.json")
    with pytest.raises(InputError, match=said) as caught:
        open_source(spec.format(tmp_path / "saved"))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_line_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the package datasets: pip install 'sdclr\[datasets\]'"):
        open_source(f"hf:{tmp_path}")


def test_streams_are_written_once_and_read_like_anything_else(flowers):
    source = checked(open_source(flowers.to_iterable_dataset(num_shards=2)))
    assert isinstance(source, ShardSource)
    again = open_source(flowers.to_iterable_dataset(num_shards=2))
    assert fingerprint(source) == fingerprint(again)
    loaders = [StreamLoader(one, sdclr.ViewConfig(image_size=8), seed=1, batch_size=4) for one in (source, again)]
    for one, two in zip(*(loader.epoch(3) for loader in loaders), strict=True):
        assert torch.equal(one.view1, two.view1)
    folder = source._root
    assert folder.is_dir()
    del source, loaders, one, two
    assert not folder.exists()


def test_streams_without_features_and_of_torch():
    rows = [{"image": Image.fromarray(image), "label": "abc"[number % 3]} for number, image in enumerate(PIXELS)]
    checked(open_source(datasets.IterableDataset.from_generator(lambda: iter(rows))))

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ((image, number % 3) for number, image in enumerate(PIXELS))

    checked(open_source(Stream()), classes=())

    class Failing(Stream):
        def __iter__(self):
            yield PIXELS[0]
            raise OSError("gone")

    with pytest.raises(InputError, match="Failing/000000001: the data set raises OSError: gone; fix it and call again"):
        open_source(Failing())


def test_splits_must_be_chosen(flowers):
    with pytest.raises(InputError, match=r"DatasetDict: has the splits train; give one, as in data\['train'\]"):
        open_source(datasets.DatasetDict(train=flowers))
    with pytest.raises(InputError, match="is empty"):
        open_source(flowers.select([]))


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


@pytest.mark.parametrize(
    "as_item",
    [
        Image.fromarray,
        np.array,
        lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
        lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    ],
    ids=["PIL", "array", "tensor", "floats"],
)
def test_items_of_any_kind_are_the_same_pixels(as_item):
    source = checked(open_source(Items([(as_item(image), i % 3) for i, image in enumerate(PIXELS)])), classes=())
    assert source.ids[8] == "Items/00008"
    assert open_source(Items([as_item(image) for image in PIXELS])).labels is None
    gray = open_source(Items([as_item(PIXELS[0])[..., 0] if as_item is np.array else as_item(PIXELS[0])]))
    assert gray.image(0).shape == (12, 10, 3)


def test_errors_of_items_name_the_index_and_are_listed():
    items = [(PIXELS[0], 0), KeyError("no such file"), (PIXELS[2], 1), (np.full((4, 4, 3), 7.5), 0), ("text", 0)]
    source = open_source(Items(items))
    assert source.labels.tolist() == [0, -1, 1, 0, 0]
    assert [(item.id, item.reason) for item in scan(source)] == [
        ("Items/00001", "item 1: KeyError: 'no such file'"),
        ("Items/00003", "float64 of shape (4, 4, 3) is not an image: give a PIL image, uint8, or floats in [0, 1]"),
        ("Items/00004", "<U4 of shape () is not an image: give a PIL image, uint8, or floats in [0, 1]"),
    ]
    with pytest.raises(BadImageError, match="item 1"):
        source.image(1)


def test_labels_by_attribute_need_no_pass():
    class Labeled(Items):
        targets = (2, 0, 1)
        classes = ("a", "b", "c")

        def __getitem__(self, index):
            raise AssertionError("decoded")

    source = TorchSource(Labeled([None] * 3))
    assert (source.labels.tolist(), source.classes) == ([2, 0, 1], ("a", "b", "c"))


def test_data_sets_go_into_public_functions(flowers, tmp_path):
    vectors = np.random.default_rng(0).random((9, 4), dtype=np.float32)
    assert len(sdclr.mine(Items(PIXELS), encoder=vectors, out=tmp_path).ids) == 9
    for images in (flowers, Items(PIXELS), flowers.to_iterable_dataset()):
        assert sdclr.inspect_images(images).images == 9
