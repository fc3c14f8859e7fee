"""Diagnosis of a run without labels, from its folder to sentences and JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest

import sdclr
from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import EncoderConfig, Preprocessing, create_encoder, wrap_encoder
from sdclr.errors import BadImageError
from sdclr.evaluation.clusters import find_clusters
from sdclr.evaluation.encoded import encode
from sdclr.evaluation.evaluate import branch_encoder
from sdclr.evaluation.label_free import forgetting, gini
from sdclr.features.extract import extract_features
from sdclr.features.nearest import nearest
from sdclr.mining import diagnose as module
from sdclr.mining.diagnose import RELIED, DiagnoseConfig, diagnose, measure
from sdclr.mining.kinds import Kinds
from sdclr.mining.mine import mine
from sdclr.training.resolve import resolve_encoder

QUICK = DiagnoseConfig(part=100, images=400, clusters=6)


def _trained(folder, **changes):
    values = {"views": sdclr.ViewConfig(image_size=8, flip=0.0), "damage": sdclr.DamageConfig(ratio=0.5)} | changes
    config = sdclr.PretrainConfig(
        encoder=sdclr.EncoderConfig(width=4),
        optim=sdclr.OptimConfig(lr=0.1, warmup_epochs=0),
        epochs=1,
        batch_size=64,
        **values,
    )
    source = SubsetSource(digits("train"), np.arange(256))
    return sdclr.pretrain(source, config, run=folder, runtime=sdclr.Runtime(progress=False))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return _trained(tmp_path_factory.mktemp("runs") / "sdclr")


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    return _trained(tmp_path_factory.mktemp("runs") / "simclr", damage=sdclr.DamageConfig(kind="none"))


class Damaged(SubsetSource):
    """Two of its images cannot be decoded."""

    def image(self, index, *, min_side=None):
        if index in (3, 90):
            raise BadImageError(self.ids[index], "truncated")
        return super().image(index, min_side=min_side)


def test_one_pass_gives_what_each_branch_gives_alone(run):
    source = SubsetSource(digits("train"), np.arange(90))
    found = encode(resolve_encoder(run), source, views=run.config.views, batch_size=40)
    dense, sparse = (
        extract_features(
            branch_encoder(resolve_encoder(run), branch), source, preprocessing=Preprocessing(image_size=8)
        ).values
        for branch in ("dense", "sparse")
    )
    np.testing.assert_allclose(found.dense, dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.sparse, sparse, rtol=1e-4, atol=1e-5)
    first, second = found.views
    assert not np.allclose(first, second)
    again = encode(resolve_encoder(run), source, views=run.config.views, batch_size=90)
    np.testing.assert_allclose(again.views[1], second, rtol=1e-3, atol=1e-4)  # views do not depend on the batches


def test_indices_are_of_the_rows_asked(run):
    found = encode(resolve_encoder(run), SubsetSource(digits("train"), np.arange(150)))
    rows = np.arange(20, 140)
    indices = measure(found, rows, k=3, clusters=5)
    dense = found.dense[rows]
    assert indices["distance_gini"] == pytest.approx(gini(nearest(dense, 3).distances.mean(1)))
    assert indices["cluster_gini"] == pytest.approx(gini(find_clusters(dense, 5).sizes))
    assert indices["forgetting"] == pytest.approx(forgetting(dense, found.sparse[rows]).mean())
    assert "alignment" not in indices


def test_a_diagnosis_is_whole_and_plain(run):
    found = diagnose(digits("train"), QUICK, encoder=run.path)
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(written["indices"]) == {*RELIED, "near_duplicates"}
    assert not set(written["indices"]) & set(written["context"])
    assert written["description"]["read"] == 400
    assert written["description"]["parts"] == [100] * 4
    assert sum(cluster["images"] for cluster in found.clusters) == 400
    distances = [cluster["distance"] for cluster in found.clusters]
    assert distances == sorted(distances, reverse=True)
    assert 3 <= len(found.summary) <= 5
    assert "kind" in found.summary[0]
    assert f"{found.indices['distance_spread']:.2f}" in found.summary[1]


def test_kinds_are_those_of_the_images_that_were_read(run):
    found = diagnose(digits("train"), QUICK, encoder=run)
    sizes = [kind["size"] for kind in found.kinds]
    assert sum(sizes) == 400
    assert sizes == sorted(sizes, reverse=True)
    assert {kind["medoid"] for kind in found.kinds} <= set(digits("train").ids)


def test_parts_are_averaged(run, monkeypatch):
    values = iter((0.1, 0.3, 0.2, 0.4))
    real = module.measure
    monkeypatch.setattr(module, "measure", lambda *a, **k: real(*a, **k) | {"distance_gini": next(values)})
    found = diagnose(digits("train"), QUICK, encoder=run)
    assert found.indices["distance_gini"] == pytest.approx(0.25)
    assert found.description["deviation"]["distance_gini"] == pytest.approx(np.std([0.1, 0.2, 0.3, 0.4]))


def test_labels_change_nothing(run):
    images = np.stack([digits("train").image(index) for index in range(120)])
    labeled = ArraySource(images, labels=np.arange(120) % 7, name="some")
    with_labels, without = (
        diagnose(source, QUICK, encoder=run) for source in (labeled, ArraySource(images, name="some"))
    )
    assert with_labels.to_json() == without.to_json()


def test_copies_are_found(run):
    images = np.stack([digits("train").image(index) for index in range(120)])
    source = ArraySource(np.concatenate([images, images[:12]]), name="twice")
    found = diagnose(source, QUICK, encoder=run)
    expected = {frozenset((f"twice/{one:05}", f"twice/{120 + one:05}")) for one in range(12)}
    assert found.indices["near_duplicates"] >= 24 / 132
    assert expected <= {frozenset(pair) for pair in found.duplicates}


def test_a_run_without_damage_is_diagnosed_too(plain_run):
    found = diagnose(
        digits("train"), DiagnoseConfig(part=100, images=100, clusters=4, alignment=True), encoder=plain_run
    )
    assert "forgetting" not in found.context
    assert found.context["alignment"] > 0


def test_bad_images_are_listed_and_left_out(run):
    source = Damaged(digits("train"), np.arange(100))
    found = diagnose(source, QUICK, encoder=run)
    assert found.bad == {source.ids[3]: "truncated", source.ids[90]: "truncated"}
    assert found.description["read"] == 98
    assert "unreadable images: 2, which the diagnosis lists" in found.summary[-1]
    assert "with 100 images, not 98" in found.summary[1]
    assert sum(kind["size"] for kind in found.kinds) == 98


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([60], ["No kind of image is separate from the others"]),
        (
            [900, 60, 40],
            ["3 separate kinds, with 900, 60, 40 images: 2 of them are rare and hold 10.0%"],
        ),
        (
            [180, 18],
            ["with 180, 18 images: 1 of them is rare and holds 9.1% of the images. The largest", "10.0 tim"],
        ),
        ([30, 30], ["2 separate kinds, with 30, 30 images: none of them is rare", "1.0 times as large"]),
        ([100, *[10] * 9], ["with 100, 10, 10, 10, 10, 10, 10, 10 images, and 2 smaller ones: 9 of"]),
    ],
)
def test_the_sizes_of_kinds_are_said_in_a_sentence(sizes, words):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    nothing = np.empty(0, dtype=np.int64)
    kinds = Kinds(labels, np.array(sizes), np.ones(len(sizes)), np.zeros(len(sizes), dtype=np.int64), nothing)
    for word in words:
        assert word in module.balance_sentence(kinds)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.1, "does not rule one out"), (0.257, "No sign"), (0.307, "may be long-tailed"), (2.0, "2.00")],
)
def test_a_value_has_a_place_on_the_scale(value, words):
    assert words in module._scale_sentence(value, "")


def test_the_reference_rises():
    means = [module.REFERENCE[imbalance][0] for imbalance in sorted(module.REFERENCE)]
    assert means == sorted(means)


def test_too_few_images_are_refused(run):
    with pytest.raises(sdclr.InputError, match="40 usable images; a diagnosis needs 50"):
        diagnose(SubsetSource(digits("train"), np.arange(40)), encoder=run)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"part": 10}, "--part 10"),
        ({"images": 100}, "--images 100"),
        ({"k": 0}, "--k"),
        ({"clusters": 1}, "--clusters"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(sdclr.InputError, match=message):
        DiagnoseConfig(**values)


def test_the_scale_is_for_encoders_trained_on_the_collection(run):
    """Its reference was measured with small encoders of that sort; under others it would mislead."""
    trained = diagnose(digits("train"), QUICK, encoder=run)
    other = diagnose(digits("train"), QUICK, encoder=run.encoder())
    assert any("long tail" in sentence or "long-tailed" in sentence for sentence in trained.summary)
    assert not any("CIFAR-10" in sentence for sentence in other.summary)
    assert other.indices == trained.indices


def test_features_that_mine_stored_are_used_again(tmp_path, monkeypatch):
    source = Damaged(digits("train"), np.arange(120), name="digits")
    encoder = wrap_encoder(create_encoder(EncoderConfig(width=4), 8).backbone, image_size=8)
    read = diagnose(source, QUICK, encoder=encoder, folder=tmp_path)
    mine(source, encoder=encoder, out=tmp_path)
    encoded = []
    monkeypatch.setattr(module, "encode", lambda *images, **how: encoded.append(images) or encode(*images, **how))
    again = diagnose(source, QUICK, encoder=encoder, folder=tmp_path)
    assert encoded == []
    assert again.bad == read.bad != {}
    assert [(kind["size"], kind["medoid"]) for kind in again.kinds] == [
        (kind["size"], kind["medoid"]) for kind in read.kinds
    ]
    assert again.indices == pytest.approx(read.indices, rel=1e-3)
    diagnose(source, replace(QUICK, alignment=True), encoder=encoder, folder=tmp_path)
    assert len(encoded) == 1
