"""Features on disk: as the encoder gives them, however the work is shared or interrupted."""

import csv
import multiprocessing
import runpy
import socket

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sdclr.config import to_json
from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import EncoderConfig, Preprocessing, create_encoder, save_encoder
from sdclr.errors import BadImageError, InputError
from sdclr.evaluation import embed as embed_module
from sdclr.evaluation.embed import embed
from sdclr.features.embeddings import embedding_files, read_embeddings
from sdclr.features.extract import extract_features, feature_batches
from sdclr.files import write_json
from sdclr.training.config import PretrainConfig
from sdclr.training.run import Run
from sdclr.views.parameters import ViewConfig

# What a launched process does: join the others and embed.
SCRIPT = """
import os, torch
os.environ.update(env)
torch.set_num_threads(1)
from sdclr.evaluation.embed import embed
embed(source, out, encoder=run, batch_size=16)
"""


class Damaged(SubsetSource):
    """Some of the images cannot be decoded."""

    gone = (0, 5, 70, 71)

    def image(self, index, *, min_side=None):
        if index in self.gone:
            raise BadImageError(self.ids[index], "truncated")
        return super().image(index, min_side=min_side)


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
def source():
    return Damaged(digits(), np.arange(100), name="damaged")


@pytest.fixture
def _small_chunks(monkeypatch):
    monkeypatch.setattr(embed_module, "CHUNK", 32)


def expected(run, source):
    return extract_features(run.encoder(), source, preprocessing=Preprocessing(image_size=8), batch_size=16)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("name", ["e.parquet", "folder"])
def test_rows_are_the_encoders_features(run, source, tmp_path, name):
    rows, bad = embed(source, tmp_path / name, encoder=run, batch_size=16)
    found, features = read_embeddings(tmp_path / name), expected(run, source)
    assert rows == 96
    assert found.ids == [source.ids[index] for index in features.kept]
    np.testing.assert_array_equal(found.values, features.values)
    assert [image.id for image in bad] == [source.ids[index] for index in Damaged.gone]
    assert bad == features.bad
    (file,) = embedding_files(tmp_path / name)
    assert pq.read_table(file)["label"].to_pylist() == source.labels[features.kept].tolist()
    assert [pq.read_metadata(file).row_group(group).num_rows for group in range(4)] == [30, 32, 30, 4]
    listed = file.parent / ("e.bad_images.csv" if name == "e.parquet" else "bad_images.csv")
    with listed.open(newline="") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == [image.id for image in bad]
    kept = {".e.parquet.images"} if name == "e.parquet" else set()
    assert {path.name for path in file.parent.iterdir()} == {file.name, listed.name, *kept}
    assert found.about["precision"] == "float32"


def test_a_list_of_bad_images_goes_when_there_are_none(run, source, tmp_path):
    embed(source, tmp_path / "e.parquet", encoder=run)
    embed(source.source, tmp_path / "e.parquet", encoder=run)
    assert {path.name for path in tmp_path.iterdir()} == {"e.parquet", ".e.parquet.images"}


@pytest.mark.usefixtures("_small_chunks")
def test_stopped_it_goes_on_where_it_was(run, source, tmp_path, monkeypatch, told):
    class Stopping(Damaged):
        def image(self, index, *, min_side=None):
            if index == 80:
                raise KeyboardInterrupt
            return super().image(index, min_side=min_side)

    with pytest.raises(KeyboardInterrupt):
        embed(Stopping(digits(), np.arange(100), name="damaged"), tmp_path / "e.parquet", encoder=run, batch_size=16)
    assert not (tmp_path / "e.parquet").exists()
    asked = []
    monkeypatch.setattr(
        embed_module,
        "feature_batches",
        lambda *given, **named: asked.append(named["positions"]) or feature_batches(*given, **named),
    )
    told.steps.clear()
    rows, bad = embed(source, tmp_path / "e.parquet", encoder=run, batch_size=16)
    assert asked == [range(64, 100)]
    assert told.counts() == [(80, 100), (96, 100), (100, 100)]
    assert (rows, len(bad)) == (96, 4)  # with the bad images of the chunks made before
    np.testing.assert_array_equal(read_embeddings(tmp_path / "e.parquet").values, expected(run, source).values)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("damage", ["flip", "cut", "folder"])
def test_a_damaged_chunk_is_made_again_and_told_of(  # noqa: PLR0917  # fixtures
    run, source, tmp_path, monkeypatch, told, damage
):
    with monkeypatch.context() as patch:
        patch.setattr(embed_module, "_put_together", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed(source, tmp_path / "e.parquet", encoder=run, batch_size=16)
    chunk = min((tmp_path / ".e.parquet.parts").glob("*-32-*.parquet"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "folder":
        chunk.unlink()
        chunk.mkdir()
    else:
        chunk.write_bytes(data if damage == "flip" else data[:-5])
    told.told.clear()
    embed(source, tmp_path / "e.parquet", encoder=run, batch_size=16)
    (line,) = told.told
    assert str(chunk) in line
    np.testing.assert_array_equal(read_embeddings(tmp_path / "e.parquet").values, expected(run, source).values)


@pytest.mark.usefixtures("_small_chunks")
def test_chunks_of_another_encoder_are_not_taken(run, source, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed_module, "_put_together", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(source, tmp_path / "e.parquet", encoder=run, batch_size=16)
    assert list((tmp_path / ".e.parquet.parts").iterdir())
    other = make_run(tmp_path / "other", seed=1)
    embed(source, tmp_path / "e.parquet", encoder=other, batch_size=16)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "e.parquet").values, expected(other, source).values)


def test_two_processes_write_what_one_does(run, source, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sdclr.evaluation.embed"])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # Shards of another number of processes must not stay beside the new ones.
    embed(source, tmp_path / "out", encoder=run, batch_size=16)
    children = []
    for rank in range(2):
        values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        env = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}}
        given = {"env": env, "run": run.path, "source": source, "out": tmp_path / "out"}
        children.append(context.Process(target=runpy.run_path, args=(str(script), given)))
        children[-1].start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    files = embedding_files(tmp_path / "out")
    assert [file.name for file in files] == [f"embeddings-0000{rank}-of-00002.parquet" for rank in range(2)]
    assert [pq.read_metadata(file).num_rows for file in files] == [46, 50]
    found, features = read_embeddings(tmp_path / "out"), expected(run, source)
    assert found.ids == [source.ids[index] for index in features.kept]
    np.testing.assert_array_equal(found.values, features.values)
    assert (tmp_path / "out" / "bad_images.csv").read_text().count("truncated") == 4
    assert not list((tmp_path / "out").glob(".*"))


def test_a_missing_shard_is_noticed(run, source, tmp_path):
    embed(source, tmp_path / "out", encoder=run)
    (file,) = embedding_files(tmp_path / "out")
    file.rename(tmp_path / "out" / "embeddings-00000-of-00003.parquet")
    with pytest.raises(InputError, match="holds 1 shards of embeddings, not 00003: embed again"):
        read_embeddings(tmp_path / "out")
    with pytest.raises(InputError, match=r"holds no embeddings: give a \.npy file, .*`sdclr embed IMAGES --out"):
        read_embeddings(run.path)


@pytest.mark.parametrize("name", ["vectors.csv", "vectors.parquet.gz"])
def test_only_parquet_is_written(source, tmp_path, name):
    with pytest.raises(InputError, match=r"ends in \.parquet, or a folder"):
        embed(source, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_embed(run, tmp_path):
    source = Damaged(digits(), [3, 4], name="gone")
    source.gone = (0, 1)
    with pytest.raises(InputError, match=r"gone: none of 2 images can be decoded; the first: .*: truncated"):
        embed(source, tmp_path / "e.parquet", encoder=run)
    assert not (tmp_path / "e.parquet").exists()


def test_names_that_are_no_unicode(run, tmp_path):
    images = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    embed(ArraySource(images, ids=["caf\udce9.png"]), tmp_path / "e.parquet", encoder=run)
    assert read_embeddings(tmp_path / "e.parquet").ids == [r"caf\xe9.png"]
    assert pq.read_schema(tmp_path / "e.parquet").names == ["id", "embedding"]


def test_half_precision_is_close(run, source, tmp_path):
    embed(source, tmp_path / "full.parquet", encoder=run, amp="none")
    embed(source, tmp_path / "half.parquet", encoder=run, amp="bf16")
    full, half = (read_embeddings(tmp_path / name) for name in ("full.parquet", "half.parquet"))
    assert half.about["precision"] == "bfloat16"
    assert not np.array_equal(full.values, half.values)
    np.testing.assert_allclose(half.values, full.values, atol=0.05 * np.abs(full.values).max())


class TestFeatureBatches:
    def test_batches_in_order_whatever_the_workers(self, run, source):
        whole = expected(run, source)
        for workers in (0, 2):
            batches = list(
                feature_batches(
                    run.encoder(), source, preprocessing=Preprocessing(image_size=8), batch_size=16, workers=workers
                )
            )
            assert [batch.seen for batch in batches] == [16, 32, 48, 64, 80, 96, 100]
            np.testing.assert_array_equal(np.concatenate([batch.positions for batch in batches]), whole.kept)
            np.testing.assert_array_equal(np.concatenate([batch.values for batch in batches]), whole.values)

    def test_some_of_the_images(self, run, source):
        encoder = run.encoder()
        batches = list(
            feature_batches(
                encoder,
                source,
                preprocessing=Preprocessing(image_size=8),
                batch_size=200,
                positions=range(66, 75),
                device="cpu",
            )
        )
        (batch,) = batches
        assert batch.positions.tolist() == [66, 67, 68, 69, 72, 73, 74]
        assert [image.id for image in batch.bad] == [source.ids[70], source.ids[71]]
        assert batch.seen == 9
        np.testing.assert_allclose(batch.values, expected(run, source).values[64 : 64 + 7], atol=1e-5)

    def test_batches_larger_than_what_a_worker_decodes_at_once(self, run, source):
        encoder, shapes = run.encoder(), []
        encoder.register_forward_hook(lambda _module, inputs, _output: shapes.append(len(inputs[0])))
        list(feature_batches(encoder, source, preprocessing=Preprocessing(image_size=8), batch_size=90, workers=1))
        assert shapes[-2:] == [86, 10]  # before them come a few single images, on which a faster copy is tried
