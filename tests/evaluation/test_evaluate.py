"""Evaluation of a run, from its folder to figures and JSON."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import sdclr
from sdclr.data.sources import ArraySource, SubsetSource, digits
from sdclr.encoders import Preprocessing
from sdclr.evaluation.config import FEW_SHOT, LINEAR, ProbeConfig
from sdclr.evaluation.evaluate import EvaluateConfig, Score, branch_encoder, draw_shots, evaluate
from sdclr.evaluation.probes import linear_probe, stratified_holdout
from sdclr.features.extract import extract_features
from sdclr.training.resolve import resolve_encoder

TINY = sdclr.PretrainConfig(
    encoder=sdclr.EncoderConfig(width=4),
    views=sdclr.ViewConfig(image_size=8, flip=0.0),
    damage=sdclr.DamageConfig(ratio=0.5),
    optim=sdclr.OptimConfig(lr=0.1, warmup_epochs=0),
    epochs=1,
    batch_size=64,
)
QUICK = EvaluateConfig(shots=2, draws=2, k=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    source = SubsetSource(digits("train"), np.arange(400))
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return sdclr.pretrain(source, TINY, run=folder, runtime=sdclr.Runtime(progress=False))


@pytest.fixture(scope="module")
def result(run):
    return evaluate(digits("train"), digits("test"), QUICK, encoder=run, class_counts=range(100, 0, -10))


def test_figures_follow_from_the_per_class_accuracies(result):
    for score in (result.linear, result.few_shot, result.knn):
        accuracy = np.array(score.per_class)
        groups = [accuracy[:4].mean(), accuracy[4:7].mean(), accuracy[7:].mean()]  # counts fall with the class id
        assert score.balance[:3] == pytest.approx(groups)
        assert score.balance.std == pytest.approx(np.std(groups))
        assert score.balance.all == pytest.approx(accuracy.mean())
        assert 5 < score.balance.all <= 100


def test_the_linear_score_is_that_of_a_probe_made_by_hand(run, result):
    encoder, train, test = sdclr.load_encoder(run.path), digits("train"), digits("test")
    x, y = extract_features(encoder, train, preprocessing=Preprocessing(image_size=8)).values, train.labels
    kept, held = stratified_holdout(y, 0.1, 0)
    probe = linear_probe(x[kept], y[kept], x[held], y[held], 10)
    predicted = probe.predict(extract_features(encoder, test, preprocessing=Preprocessing(image_size=8)).values)
    assert result.linear.balance.all == pytest.approx(100 * (predicted == test.labels).mean())
    assert result.linear.details["learning_rate"] == [probe.learning_rate]


def test_json_holds_what_it_takes_to_repeat_it(run, result):
    written = json.loads((run.results / "dense.json").read_text())
    assert written == result.to_json()
    assert written["linear"]["balance"]["all"] == result.linear.balance.all
    assert written["groups"]["few"] == [7, 8, 9]
    assert written["config"]["shots"] == 2
    assert written["train"]["images"] == 1297
    assert len(written["few_shot"]["learning_rate"]) == 2
    assert "NaN" not in (run.results / "dense.json").read_text()


def test_passes_in_bfloat16_change_little_and_are_noted(run, result):
    half = evaluate(digits("train"), digits("test"), QUICK, encoder=run, class_counts=range(100, 0, -10), amp="bf16")
    assert (result.to_json()["precision"], half.to_json()["precision"]) == ("float32", "bfloat16")
    assert half.linear.per_class != result.linear.per_class  # they were carried out
    assert half.linear.balance.all == pytest.approx(result.linear.balance.all, abs=6)  # 500 images, few epochs


def test_counts_recorded_by_the_run_decide_the_groups(run):
    evaluate(digits("train"), digits("test"), QUICK, encoder=run)
    written = json.loads((run.results / "dense.json").read_text())
    assert written["class_counts"] == np.bincount(digits("train").labels[:400]).tolist()
    assert written["groups"] is not None


def test_without_counts_there_are_no_groups(run):
    found = evaluate(digits("train"), digits("test"), QUICK, encoder=run, class_counts=[5] * 10)
    assert math.isnan(found.linear.balance.few)
    assert found.linear.balance.all > 5


def test_the_sparse_branch_is_the_pruned_encoder(run):
    encoder = branch_encoder(resolve_encoder(run), "sparse").eval()
    x = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    objective = run.objective()
    twin = objective.competitor
    with torch.no_grad():
        masked = objective.network.head(encoder(x))
        assert not torch.allclose(encoder(x), run.encoder()(x))
        assert masked.shape == twin(x).shape


@pytest.mark.parametrize("branch", ["dense", "sparse"])
def test_augmented_probes_see_images_anew(run, branch, monkeypatch):
    seen = []
    augment = sdclr.evaluation.probes.pad_crop_flip
    monkeypatch.setattr(
        sdclr.evaluation.probes, "pad_crop_flip", lambda *arguments: seen.append(arguments[1]) or augment(*arguments)
    )
    protocol = ProbeConfig(epochs=2, milestones=(1,), learning_rates=(10.0, 1.0))
    config = EvaluateConfig(branch=branch, augment=True, shots=2, k=5, linear=protocol, few_shot=protocol)
    found = evaluate(digits("train"), digits("test"), config, encoder=run)
    assert found.linear.balance.all > 5
    assert seen == [1] * 22  # 1 px of 8; ten batches in each of two epochs, and one in each for the few
    assert found.description["config"]["augment"] is True


def test_given_sets_take_the_place_of_drawn_ones(run):
    train, test = digits("train"), digits("test")
    taught, held = SubsetSource(train, np.arange(300)), SubsetSource(train, np.arange(900, 1297))
    few = SubsetSource(train, np.arange(300, 340))
    found = evaluate(taught, test, EvaluateConfig(k=5), encoder=run, validation=held, few_shot=few)
    encoder = sdclr.load_encoder(run.path)
    x = {
        source.name: extract_features(encoder, source, preprocessing=Preprocessing(image_size=8)).values
        for source in (taught, held, few, test)
    }
    for score, source, protocol in ((found.linear, taught, LINEAR), (found.few_shot, few, FEW_SHOT)):
        probe = linear_probe(x[source.name], source.labels, x[held.name], held.labels, 10, protocol)
        hits = probe.predict(x[test.name]) == test.labels
        assert score.per_class == pytest.approx([100 * hits[test.labels == label].mean() for label in range(10)])
    assert found.few_shot.details["images"] == 40
    assert found.few_shot.details["shots"] == np.bincount(few.labels).max()
    assert found.knn.details["images"] == found.linear.details["images"] == 300
    assert found.description["validation"]["images"] == 397
    assert found.description["few_shot_set"]["images"] == 40
    assert found.to_json()["few_shot"]["images"] == 40


def test_a_given_few_shot_set_is_not_drawn(run):
    few = SubsetSource(digits("train"), np.arange(50))
    with pytest.raises(sdclr.InputError, match="leave out shots and draws"):
        evaluate(digits("train"), digits("test"), QUICK, encoder=run, few_shot=few)
    unlabeled = ArraySource(np.zeros((20, 8, 8, 3), dtype=np.uint8), name="plain")
    with pytest.raises(sdclr.InputError, match="plain has no labels"):
        evaluate(digits("train"), digits("test"), encoder=run, validation=unlabeled)


def test_the_spread_over_classes_is_that_of_the_known_ones(result):
    written = result.to_json()
    for name in ("linear", "few_shot", "knn"):
        assert written[name]["std_classes"] == pytest.approx(np.std(written[name]["per_class"]))
    assert Score(result.linear.balance, [10.0, math.nan, 30.0], {}).std_classes == 10.0
    assert math.isnan(Score(result.linear.balance, [math.nan], {}).std_classes)


def test_labels_are_needed_and_must_match(run):
    unlabeled = ArraySource(np.zeros((20, 8, 8, 3), dtype=np.uint8), name="plain")
    with pytest.raises(sdclr.InputError, match="plain has no labels"):
        evaluate(unlabeled, digits("test"), encoder=run)
    with pytest.raises(sdclr.InputError, match="3 class counts but 10 classes"):
        evaluate(digits("train"), digits("test"), QUICK, encoder=run, class_counts=[3, 2, 1])


def test_shots_are_balanced_and_reproducible():
    labels = np.repeat([0, 1, 2], [50, 5, 1])
    chosen = draw_shots(labels, 3, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 1]
    assert np.array_equal(chosen, draw_shots(labels, 3, seed=1))
    assert not np.array_equal(chosen, draw_shots(labels, 3, seed=2))


def test_embeddings_on_disk_are_the_encoders(run, tmp_path):
    rows, bad = sdclr.embed("digits:test", tmp_path / "new" / "e.parquet", encoder=run.path)
    table = pq.read_table(tmp_path / "new" / "e.parquet")
    expected = extract_features(
        sdclr.load_encoder(run.path), digits("test"), preprocessing=Preprocessing(image_size=8)
    ).values
    assert (rows, bad) == (500, [])
    assert table.column_names == ["id", "embedding", "label"]
    assert table["id"].to_pylist() == list(digits("test").ids)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), expected)
    assert table["label"].to_pylist() == digits("test").labels.tolist()
