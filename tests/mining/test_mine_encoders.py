"""Mining by encoders that are no runs: modules, exports, pretrained networks, and embeddings of every origin."""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from sdclr.data.sources import ArraySource, SubsetSource
from sdclr.encoders import DEFAULT, EncoderConfig, Preprocessing, create_encoder, packaged_weights, wrap_encoder
from sdclr.errors import InputError
from sdclr.features.embeddings import embeddings_of, read_embeddings
from sdclr.features.extract import extract_features
from sdclr.method import magnitude_masks
from sdclr.mining.mine import MineConfig, mine
from sdclr.mining.select import select
from sdclr.training.export import export

QUICK = MineConfig(k=(5,), batch_size=32)


def features_of(encoder, source):
    return extract_features(encoder, source, preprocessing=Preprocessing(image_size=8), batch_size=32).values


@pytest.fixture(scope="module")
def module():
    """A network of the user's own, with random weights."""
    torch.manual_seed(3)
    return wrap_encoder(create_encoder(EncoderConfig(width=4), 8).backbone, image_size=8, mean=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def features(module, collection):
    return features_of(module, collection)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestModules:
    def test_a_module_ranks_by_its_features(self, module, collection, features, out):
        scores = mine(collection, QUICK, encoder=module, out=out)
        expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features).kneighbors()[0].mean(axis=1)
        np.testing.assert_allclose(scores.columns["distance_5"], expected, atol=1e-5)
        assert list(scores.columns) == ["distance_5", "kind_size"]
        assert scores.about["origin"] is None

    def test_without_a_run_results_lie_in_a_folder_named_after_the_images(self, module, collection, here):
        mine(collection, QUICK, encoder=module)
        assert (here / "mined" / "few" / "scores.parquet").is_file()

    def test_forgetting_is_measured_by_pruning_the_network_by_magnitude(self, module, collection, features, out):
        config = MineConfig(score="forgetting", ratios=(0.7,), k=(5,), batch_size=32)
        scores = mine(collection, config, encoder=module, out=out)
        pruned = copy.deepcopy(module)
        weights = {
            f"{name}.weight": part.weight.detach()
            for name, part in pruned.named_modules()
            if isinstance(part, torch.nn.Conv2d)
        }
        for name, mask in magnitude_masks(weights, 0.7).items():
            pruned.get_parameter(name).data *= mask
        changed = features_of(pruned, collection)
        cosine = (features * changed).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(changed, axis=1)
        np.testing.assert_allclose(scores.columns["forgetting_0.7"], 1 - cosine, atol=1e-5)
        np.testing.assert_array_equal(scores.rarity, scores.columns["forgetting_0.7"])
        assert scores.about["normalization"] == "shared"

    def test_without_a_ratio_nothing_can_be_forgotten(self, module, collection, out):
        with pytest.raises(InputError, match=r"Encoder was not pruned in training: give --ratios 0\.5") as caught:
            mine(collection, MineConfig(score="forgetting"), encoder=module, out=out)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("config", "option"),
        [
            (MineConfig(score="loss"), "--score loss"),
            (MineConfig(loss=True), "--loss"),
            (MineConfig(ratios=(0.5,), projection=True), "--projection"),
            (MineConfig(ratios=(0.5,), views=2), "--views"),
            (MineConfig(ratios=(0.5,), checkpoints=2), "--checkpoints"),
        ],
    )
    def test_settings_that_need_a_run_are_refused_in_one_line(self, module, features, collection, out, config, option):  # noqa: PLR0917  # fixtures
        with pytest.raises(
            InputError, match=f"^{option} needs a run of `sdclr pretrain`.*--encoder runs/NAME"
        ) as caught:
            mine(collection, config, encoder=module, out=out)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=f"^{option} needs a network, and encoder holds embeddings only"):
            mine(collection, config, encoder=features, out=out)
        assert not out.exists()

    def test_unreadable_images_are_left_out(self, module, collection, damaged, features, out):
        scores = mine(damaged(collection, (0, 119)), QUICK, encoder=module, out=out)
        expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features[1:119]).kneighbors()[0].mean(axis=1)
        np.testing.assert_allclose(scores.columns["distance_5"][1:119], expected, atol=1e-5)
        assert list(scores.bad) == [collection.ids[0], collection.ids[119]]

    def test_an_image_size_that_the_network_cannot_take(self, module, collection, out):
        with pytest.raises(InputError, match="takes images of 8 px only"):
            mine(collection, MineConfig(image_size=16), encoder=module, out=out)


def test_an_exported_run_gives_the_runs_distances(simclr_run, collection, tmp_path):
    export(simclr_run, tmp_path / "exported", ("timm",))
    ours = mine(collection, QUICK, encoder=simclr_run, out=tmp_path / "run")
    theirs = mine(collection, QUICK, encoder=tmp_path / "exported", out=tmp_path / "export")
    np.testing.assert_array_equal(ours.columns["distance_5"], theirs.columns["distance_5"])


@pytest.mark.slow
@pytest.mark.skipif(packaged_weights() is None, reason="needs the extra `weights`")
def test_without_an_encoder_a_pretrained_one_is_used(collection, here):
    few = SubsetSource(collection, np.arange(40))
    scores = mine(few, QUICK)
    assert scores.about["encoder"] == DEFAULT
    assert "apache-2.0" in scores.about["origin"]
    assert (here / "mined" / few.name / "scores.parquet").is_file()
    assert np.load(here / "mined" / few.name / "reading" / "features.npy").shape == (40, 1280)


class TestEmbeddings:
    @pytest.fixture
    def table(self, collection, features, tmp_path):
        """As another tool writes them, in another order than the images."""
        order = np.random.default_rng(0).permutation(len(features))
        file = tmp_path / "theirs.parquet"
        ids = [collection.ids[row] for row in order]
        pq.write_table(pa.table({"filename": ids, "vector": features[order].tolist()}), file)
        return file

    def test_every_way_to_give_them_gives_the_ranking_of_the_encoder(
        self, module, collection, features, table, tmp_path
    ):
        expected = mine(collection, QUICK, encoder=module, out=tmp_path / "module")
        np.save(tmp_path / "rows.npy", features)
        given = [features, table, str(tmp_path / "rows.npy"), read_embeddings(table), embeddings_of(features)]
        for number, encoder in enumerate(given):
            found = mine(collection, QUICK, encoder=encoder, out=tmp_path / str(number))
            np.testing.assert_allclose(found.columns["distance_5"], expected.columns["distance_5"], atol=1e-6)
            assert found.ids == list(collection.ids)
            assert found.rank.tolist() == expected.rank.tolist()

    def test_they_may_stand_for_the_images(self, module, collection, table, tmp_path):
        expected = mine(collection, QUICK, encoder=module, out=tmp_path / "module")
        found = mine(table, QUICK, out=tmp_path / "table")
        assert sorted(found.ids) == sorted(collection.ids)
        distance = dict(zip(found.ids, found.columns["distance_5"].tolist(), strict=True))
        by_images = [distance[image_id] for image_id in collection.ids]
        np.testing.assert_allclose(by_images, expected.columns["distance_5"], atol=1e-6)
        assert found.ids[found.order()[0]] == expected.ids[expected.order()[0]]
        assert found.about["encoder"] == found.about["source"] == "theirs.parquet"

    def test_rows_without_ids_are_told_by_their_number(self, features, here):
        np.save("rows.npy", features)
        found = mine("rows.npy", QUICK)
        assert found.ids[:2] == ["000", "001"]
        assert (here / "mined" / "rows" / "scores.parquet").is_file()

    def test_a_few_of_the_images_may_be_asked(self, collection, table, tmp_path):
        some = SubsetSource(collection, np.arange(50), name="some")
        assert len(mine(some, QUICK, encoder=table, out=tmp_path)) == 50

    def test_what_does_not_fit_is_refused(self, collection, features, module, table, out):
        with pytest.raises(InputError, match="encoder has 119 rows without ids, but few has 120 images"):
            mine(collection, QUICK, encoder=features[1:], out=out)
        with pytest.raises(InputError, match="holds embeddings already: leave out the encoder"):
            mine(table, QUICK, encoder=module, out=out)
        some = embeddings_of(features[1:], list(collection.ids[1:]))
        with pytest.raises(InputError, match=r"has no vector for 1 of 120 images of few, the first: '"):
            mine(collection, QUICK, encoder=some, out=out)

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_a_few_vectors(self, features, out, count):
        scores = mine(ArraySource(np.zeros((count, 8, 8, 3), dtype=np.uint8)), QUICK, encoder=features[:count], out=out)
        assert sorted(scores.rank.tolist()) == list(range(1, count + 1))

    def test_what_to_label_is_chosen_by_them(self, collection, table, out):
        choice = select(table, 5, out=out, labeled=[collection.ids[0]])
        assert len(set(choice.ids)) == 5
        assert collection.ids[0] not in choice.ids
        assert [choice.scores.ids[position] for position in choice.positions] == choice.ids
