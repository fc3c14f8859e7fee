"""The nearest images of a collection, by id and by file."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from sdclr.config import to_json
from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import EncoderConfig, Preprocessing, create_encoder, save_encoder, wrap_encoder
from sdclr.errors import BadImageError, InputError
from sdclr.evaluation.embed import embed
from sdclr.features.extract import extract_features
from sdclr.files import write_json
from sdclr.mining.mine import mine
from sdclr.mining.similar import Found, Row, neighbors
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig


def make_run(folder, seed=0):
    torch.manual_seed(seed)
    config = PretrainConfig(encoder=EncoderConfig(width=4), views=ViewConfig(image_size=8))
    write_json(folder / "config.json", to_json(config))
    save_encoder(folder, create_encoder(config.encoder, 8))
    return Run.open(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture
def exported(tmp_path):
    """A folder with an encoder that is not a run."""
    torch.manual_seed(0)
    save_encoder(tmp_path / "exported", create_encoder(EncoderConfig(width=4), 8))
    return tmp_path / "exported"


@pytest.fixture(scope="module")
def source():
    return SubsetSource(digits(), np.arange(60))


@pytest.fixture(scope="module")
def features(run, source):
    return extract_features(run.encoder(), source, preprocessing=Preprocessing(image_size=8)).values


@pytest.fixture
def embeddings(run, source, tmp_path):
    embed(source, tmp_path / "e.parquet", encoder=run)
    return tmp_path / "e.parquet"


@pytest.fixture
def picture(source, tmp_path):
    """The source's seventh image, as a file."""
    file = tmp_path / "seventh.png"
    Image.fromarray(source.image(7)).save(file)
    return file


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_as_scikit_learn_finds_them(run, source, features, metric):
    queries = [source.ids[index] for index in (3, 50, 3)]
    found = neighbors(source, queries, 4, encoder=run.path, metric=metric)
    distances, indices = NearestNeighbors(n_neighbors=5, metric=metric).fit(features).kneighbors(features[[3, 50, 3]])
    assert [row.query for row in found.rows] == np.repeat(queries, 4).tolist()
    assert [row.rank for row in found.rows] == [1, 2, 3, 4] * 3
    assert [row.id for row in found.rows] == [source.ids[index] for index in indices[:, 1:].reshape(-1)]
    np.testing.assert_allclose([row.distance for row in found.rows], distances[:, 1:].reshape(-1), atol=1e-5)
    assert found.bad == []


def test_embeddings_on_disk_give_the_same_without_a_run(run, source, embeddings, tmp_path):
    queries = list(source.ids[:5])
    fresh = neighbors(source, queries, 3, encoder=run)
    assert neighbors(embeddings, queries, 3) == fresh
    assert neighbors(str(embeddings), queries, 3, encoder=run) == fresh
    embed(source, tmp_path / "shards", encoder=run)
    assert neighbors(tmp_path / "shards", queries, 3) == fresh


def test_a_file_from_elsewhere(run, source, embeddings, picture):
    for searched in (source, embeddings):
        found = neighbors(searched, [picture, source.ids[7]], 2, encoder=run)
        (first, second), inside = found.rows[:2], found.rows[2:]
        assert (first.query, first.rank, first.id) == (str(picture), 1, source.ids[7])
        assert first.distance == pytest.approx(0, abs=1e-5)
        assert second[2:] == pytest.approx(inside[0][2:], abs=1e-5)  # of which the image itself is not one


def test_copies_of_an_image_are_neighbors_and_the_image_is_not(run):
    copies = SubsetSource(digits(), [5])
    copies.indices = np.array([5, 5, 5, 5])
    copies.ids = ["a", "b", "c", "d"]
    copies.labels = None
    found = neighbors(copies, ["b"], 2, encoder=run)
    assert len(found.rows) == 2
    assert "b" not in {row.id for row in found.rows}
    assert {row.id for row in neighbors(copies, ["c"], 3, encoder=run).rows} == {"a", "b", "d"}


def test_bad_images_are_listed_and_end_nothing(run, tmp_path):
    class Damaged(SubsetSource):
        def image(self, index, *, min_side=None):
            if index == 2:
                raise BadImageError(self.ids[index], "truncated")
            return super().image(index, min_side=min_side)

    damaged = Damaged(digits(), np.arange(10))
    (tmp_path / "empty.jpg").write_bytes(b"")
    found = neighbors(damaged, [damaged.ids[2], tmp_path / "empty.jpg", damaged.ids[3]], 9 - 1, encoder=run)
    assert {row.query for row in found.rows} == {damaged.ids[3]}
    assert damaged.ids[2] not in {row.id for row in found.rows}
    assert [tuple(image)[:2] for image in found.bad] == [
        (damaged.ids[2], "truncated"),
        (str(tmp_path / "empty.jpg"), "zero bytes"),
    ]
    assert neighbors(damaged, [tmp_path / "empty.jpg"], 3, encoder=run).rows == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_written_and_read(tmp_path, suffix):
    rows = [Row("a", 1, "b,c", 0.125), Row("a", 2, "d", 1.5)]
    path = Found(rows, []).write(tmp_path / "new" / f"n{suffix}")
    if suffix == ".csv":
        with path.open(newline="") as lines:
            read = [
                Row(row["query"], int(row["rank"]), row["id"], float(row["distance"])) for row in csv.DictReader(lines)
            ]
    else:
        read = [Row(**row) for row in pq.read_table(path).to_pylist()]
    assert read == rows
    assert Found([], []).write(tmp_path / f"none{suffix}").stat().st_size > 0


def test_what_cannot_be_asked(run, source, embeddings, picture, tmp_path):
    wrong = source.ids[3].replace("digits", "digit")
    with pytest.raises(InputError, match="is neither an id of the images nor a file; did you mean digits/"):
        neighbors(source, [wrong], encoder=run)
    with pytest.raises(InputError, match="k=0 neighbors"):
        neighbors(source, [source.ids[0]], 0, encoder=run)
    with pytest.raises(InputError, match="no queries"):
        neighbors(source, [], encoder=run)
    with pytest.raises(InputError, match=r"seventh\.png is not among the embeddings: name the encoder that made them"):
        neighbors(embeddings, [picture])
    with pytest.raises(InputError, match=r"e\.parquet was not made by .*other: embed again"):
        neighbors(embeddings, [picture], encoder=make_run(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match=r"a \.csv or a \.parquet file"):
        Found([], []).write(tmp_path / "x.txt")


def test_a_wrong_query_is_an_error_before_the_images_are_read():
    class Unread(ArraySource):
        def image(self, index, **_how):
            raise AssertionError(index)

    images = Unread(np.zeros((3, 8, 8, 3), dtype=np.uint8), ids=["a", "b", "c"], name="unread")
    with pytest.raises(InputError, match="'nope' is neither an id of the images nor a file; ids look like 'a'"):
        neighbors(images, ["a", "nope"], encoder=wrap_encoder(torch.nn.Flatten(), image_size=8))


def test_stored_features_are_used_again(exported, source, tmp_path, monkeypatch):
    queries = list(source.ids[:3])
    expected = neighbors(source, queries, 4, encoder=exported, folder=tmp_path).rows
    mine(source, encoder=exported, out=tmp_path)

    def refuse(*_, **__):
        raise AssertionError("the images were read again")

    monkeypatch.setattr("sdclr.mining.similar.extract_features", refuse)
    found = neighbors(source, queries, 4, encoder=exported, folder=tmp_path).rows
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    np.testing.assert_allclose([row.distance for row in found], [row.distance for row in expected], atol=1e-5)
    with pytest.raises(AssertionError, match="read again"):
        neighbors(source, queries, 4, encoder=exported, folder=tmp_path / "other")


def test_an_unreadable_image_of_the_stored_features_is_listed(exported, tmp_path):
    images = [file_of(tmp_path / "images", position) for position in range(6)]
    images[2].write_bytes(b"no image")
    mine(tmp_path / "images", encoder=exported, out=tmp_path / "mined")
    found = neighbors(tmp_path / "images", ["0.png"], 5, encoder=exported, folder=tmp_path / "mined")
    assert [image.id for image in found.bad] == ["2.png"]
    assert {row.id for row in found.rows} == {"1.png", "3.png", "4.png", "5.png"}


def file_of(folder, position):
    folder.mkdir(exist_ok=True)
    file = folder / f"{position}.png"
    Image.fromarray(digits().image(position)).save(file)
    return file
