"""Distances in the features of a run's own images: against scikit-learn, on one process and on two, with bad images."""

import dataclasses
import multiprocessing
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from sdclr.data.sources import ArraySource, Source, SubsetSource, digits
from sdclr.encoders import Encoder, EncoderConfig, create_encoder
from sdclr.errors import BadImageError, InputError
from sdclr.method.rebalancing.curation import Curation, CurationConfig, curated_weights
from sdclr.method.rebalancing.density import Density, DensityConfig, density_weights
from sdclr.training import density as density_module
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.density import Reading, cluster_rarity, cluster_tree, neighbor_distances, refresh
from sdclr.training.distributed import Processes
from sdclr.training.feed import create_feed
from sdclr.training.run import Run

ALONE = Processes(0, 1, torch.device("cpu"))
READING = Reading(image_size=8, batch_size=16)


@pytest.fixture
def encoder() -> Encoder:
    """In training mode, with running statistics of some images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = create_encoder(EncoderConfig(width=4), 8)
        made(pixels_of(digits()))
    return made.train()


def pixels_of(source: Source, count: int = 50) -> Tensor:
    images = np.stack([source.image(index) for index in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def features_of(encoder: nn.Module, pixels: Tensor) -> NDArray[np.float32]:
    modes = [module.training for module in encoder.modules()]
    encoder.eval()
    with torch.no_grad():
        features = encoder(pixels).numpy()
    for module, mode in zip(encoder.modules(), modes, strict=True):
        module.training = mode
    return features


def by_sklearn(base: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    found = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(base)
    return found.kneighbors(queries)[0].mean(axis=1)


def test_distances_are_those_of_scikit_learn_whatever_holds_the_images(
    encoder: Encoder, few_digits: SubsetSource
) -> None:
    pixels = pixels_of(few_digits)
    features = features_of(encoder, pixels)
    # A search among others than the queries would find each image itself first.
    expected = by_sklearn(features, features, 6) * 6 / 5
    held = neighbor_distances(encoder, pixels, place=ALONE, reading=READING, k=5)
    decoded = neighbor_distances(encoder, few_digits, place=ALONE, reading=READING, k=5)
    np.testing.assert_allclose(held, expected, atol=1e-6)
    torch.testing.assert_close(decoded, held, rtol=0, atol=1e-6)
    assert float(held.std()) > 1e-3  # else the comparison would say nothing


def test_the_encoder_and_the_random_state_stay_as_they_were(encoder: Encoder, few_digits: SubsetSource) -> None:
    encoder.backbone.get_submodule("layer1").eval()
    modes = [module.training for module in encoder.modules()]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = torch.get_rng_state()
    for images in (pixels_of(few_digits), few_digits):
        neighbor_distances(encoder, images, place=ALONE, reading=READING)
        cluster_rarity(encoder, images, place=ALONE, reading=READING)
        cluster_tree(encoder, images, place=ALONE, reading=READING)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_held_images_of_another_size_are_resized_as_evaluations_do() -> None:
    class Seen(nn.Module):
        """Pixels as features."""

        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[2:] == (8, 8)
            return images.flatten(1)

    rough = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    held = (nn.functional.interpolate(rough, (14, 18), mode="bilinear") * 255).to(torch.uint8)
    source = ArraySource(held.permute(0, 2, 3, 1).numpy(), name="a")
    one = neighbor_distances(Seen(), held, place=ALONE, reading=READING, k=3)
    other = neighbor_distances(Seen(), source, place=ALONE, reading=READING, k=3)
    torch.testing.assert_close(one, other, rtol=0.01, atol=0)


def test_beyond_the_limit_neighbors_are_sought_among_a_sample(encoder: Encoder, few_digits: SubsetSource) -> None:
    pixels = pixels_of(few_digits)
    features = features_of(encoder, pixels)
    drawn = np.random.default_rng(3).choice(50, 20, replace=False)
    expected = by_sklearn(features[drawn], features, 5)
    itself = by_sklearn(features[drawn], features, 6) * 6 / 5
    expected[drawn] = itself[drawn]
    reading = dataclasses.replace(READING, exact=20, seed=3)
    found = neighbor_distances(encoder, pixels, place=ALONE, reading=reading, k=5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_copies_are_at_distance_zero_and_few_images_have_few_neighbors(encoder: Encoder) -> None:
    pixels = pixels_of(digits(), 4)
    copied = torch.cat([pixels[:1].expand(12, -1, -1, -1), pixels])
    distances = neighbor_distances(encoder, copied, place=ALONE, reading=READING, k=10)
    assert distances[:13].abs().max() < 1e-5
    assert distances[13:].min() > 1e-4
    few = neighbor_distances(encoder, pixels, place=ALONE, reading=READING, k=10)
    features = features_of(encoder, pixels)
    np.testing.assert_allclose(few, by_sklearn(features, features, 4) * 4 / 3, atol=1e-6)


class Spoilt(SubsetSource):
    """Some of its images went bad."""

    spoilt: frozenset[int] = frozenset()

    def image(self, index: int, *, min_side: int | None = None) -> NDArray[np.uint8]:
        if index in self.spoilt:
            raise BadImageError(self.ids[index], "gone")
        return super().image(index, min_side=min_side)


def test_an_image_gone_bad_has_the_median_distance_and_is_no_neighbor(encoder: Encoder) -> None:
    source = Spoilt(digits(), np.arange(50), name="spoilt")
    source.spoilt = frozenset(range(16, 32)) | {3}  # a whole batch, and one
    good = np.setdiff1d(np.arange(50), list(source.spoilt))
    features = features_of(encoder, pixels_of(digits())[good])
    found = neighbor_distances(encoder, source, place=ALONE, reading=READING, k=5)
    np.testing.assert_allclose(found[good], by_sklearn(features, features, 6) * 6 / 5, atol=1e-6)
    assert found[sorted(source.spoilt)].tolist() == pytest.approx([float(found[good].median())] * 17)
    rarity = cluster_rarity(encoder, source, place=ALONE, reading=READING)
    assert float(rarity[good].double().sum()) == pytest.approx(round(float(rarity[good].double().sum())), abs=1e-5)
    tree = cluster_tree(encoder, source, place=ALONE, reading=READING)
    assert torch.equal((tree < 0).all(1), (tree < 0).any(1))
    assert (tree < 0).any(1).nonzero().flatten().tolist() == sorted(source.spoilt)
    source.spoilt = frozenset(range(50))
    with pytest.raises(InputError, match="none of the 50 images can be decoded any more"):
        neighbor_distances(encoder, source, place=ALONE, reading=READING)


def test_an_encoder_that_has_diverged_is_told(encoder: Encoder, few_digits: SubsetSource) -> None:
    next(encoder.parameters()).data.fill_(torch.nan)
    with pytest.raises(InputError, match="is not finite: the encoder has diverged"):
        neighbor_distances(encoder, pixels_of(few_digits), place=ALONE, reading=READING)


def test_clusters_make_images_as_rare_as_their_cluster_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    class Corner(nn.Module):
        """Three kinds of images, by their first pixel."""

        def forward(self, images: Tensor) -> Tensor:
            kind = (images[:, 0, 0, 0] * 255).round().long()
            wobble = images[:, 1, 0, :3]
            return torch.eye(3)[kind] + 0.01 * wobble

    images = torch.randint(256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    expected = [1 / 40] * 40 + [1 / 15] * 15 + [1 / 5] * 5
    for fitted in (50_000, 59):  # all, or nearly all, fit the centers
        monkeypatch.setattr(density_module, "FITTED", fitted)
        found = cluster_rarity(Corner(), images, place=ALONE, reading=READING, clusters=3)
        assert found.tolist() == pytest.approx(expected)


def test_the_tree_has_evenly_many_parts_at_each_level(encoder: Encoder, few_digits: SubsetSource) -> None:
    pixels = pixels_of(few_digits)
    for levels, most in ((1, [7]), (2, [4, 14]), (3, [3, 7, 19])):  # 50^(l / (L + 1))
        tree = cluster_tree(encoder, pixels, place=ALONE, reading=READING, levels=levels)
        assert tree.shape == (50, levels)
        found = [len(tree[:, level].unique()) for level in range(levels)]
        assert all(most_of / 2 <= of <= most_of for of, most_of in zip(found, most, strict=True))
        assert len(tree.unique(dim=0)) == found[-1]  # each cluster lies within one of the level above
    # Of few images that all others are compared with, few clusters are made.
    reading = dataclasses.replace(READING, exact=9)
    tree = cluster_tree(encoder, pixels, place=ALONE, reading=reading, levels=1)
    assert 1 < len(tree.unique()) <= 3


Make = Callable[[Source, DensityConfig | CurationConfig], Density | Curation]


@pytest.fixture
def refreshed(tiny: PretrainConfig, runtime: Runtime, encoder: Encoder, tmp_path: Path) -> Make:
    def make(source: Source, config: DensityConfig | CurationConfig) -> Density | Curation:
        feed = create_feed(source, Run(tmp_path / source.name), tiny, runtime, ALONE)
        weights: Density | Curation = (
            Curation(len(feed.kept), epochs=4, config=config)
            if isinstance(config, CurationConfig)
            else Density(len(feed.kept), epochs=4, config=config)
        )
        refresh(weights, encoder, feed, ALONE, image_size=8, amp="none")
        return weights

    return make


def test_a_refresh_weighs_the_images_of_the_run(
    refreshed: Make, encoder: Encoder, few_digits: SubsetSource, large_images: ArraySource
) -> None:
    reading = Reading(image_size=8)
    for source, images in ((few_digits, pixels_of(few_digits)), (large_images, large_images)):
        distances = neighbor_distances(encoder, images, place=ALONE, reading=reading, k=4)
        density = refreshed(source, DensityConfig(neighbors=4))
        torch.testing.assert_close(density.weights, density_weights(distances, effective=0.5))
    rarity = cluster_rarity(encoder, pixels_of(few_digits), place=ALONE, reading=reading, clusters=5)
    density = refreshed(few_digits, DensityConfig(control="clusters", clusters=5, effective=None, power=1.0))
    torch.testing.assert_close(density.weights, density_weights(rarity, power=1))
    tree = cluster_tree(encoder, pixels_of(few_digits), place=ALONE, reading=reading, levels=3)
    curation = refreshed(few_digits, CurationConfig(levels=3, share=0.2))
    assert torch.equal(curation.weights, curated_weights(tree, share=0.2))
    assert float(curation.weights.std()) > 0.1


SCRIPT = """
import copy, torch, torch.distributed as dist
from sdclr.training.density import cluster_rarity, cluster_tree, neighbor_distances
from sdclr.training.distributed import Processes
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
encoder = copy.deepcopy(encoder)  # it came in memory that both share
if rank:  # each process has statistics of its own batches
    for buffer in encoder.buffers():
        buffer.add_(1)
own = [buffer.clone() for buffer in encoder.buffers()]
place = Processes(rank, 2, torch.device("cpu"))
found = {}
for name, (images, reading) in cases.items():
    found[name] = neighbor_distances(encoder, images, place=place, reading=reading, k=5)
    found[name + " clusters"] = cluster_rarity(encoder, images, place=place, reading=reading, clusters=4)
    found[name + " tree"] = cluster_tree(encoder, images, place=place, reading=reading)
assert all(torch.equal(one, other) for one, other in zip(own, encoder.buffers()))
torch.save(found, f"{folder}/{rank}.pt")
dist.barrier()
"""


def test_two_processes_find_what_one_finds(encoder: Encoder, few_digits: SubsetSource, tmp_path: Path) -> None:
    spoilt = Spoilt(digits(), np.arange(50), name="spoilt")
    spoilt.spoilt = frozenset({1, 40, *range(16)})
    cases: dict[str, tuple[Any, Reading]] = {
        "held": (pixels_of(few_digits), READING),
        "sample": (pixels_of(few_digits), dataclasses.replace(READING, exact=20)),
        "decoded": (few_digits, READING),
        "one batch": (few_digits, dataclasses.replace(READING, batch_size=64)),
        "bad": (spoilt, READING),
    }
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sdclr.training.pretrain"])
    children = []
    for rank in range(2):
        values = {"rank": rank, "folder": str(tmp_path), "encoder": encoder, "cases": cases}
        children.append(context.Process(target=runpy.run_path, args=(str(script), values)))
        children[-1].start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, (images, reading) in cases.items():
        alone = neighbor_distances(encoder, images, place=ALONE, reading=reading, k=5)
        torch.testing.assert_close(first[name], alone, rtol=0, atol=1e-6)
        assert torch.equal(first[name], second[name])
        clusters = cluster_rarity(encoder, images, place=ALONE, reading=reading, clusters=4)
        assert torch.equal(first[f"{name} clusters"], clusters)
        assert torch.equal(first[f"{name} clusters"], second[f"{name} clusters"])
        tree = cluster_tree(encoder, images, place=ALONE, reading=reading)
        assert torch.equal(first[f"{name} tree"], tree)
        assert torch.equal(first[f"{name} tree"], second[f"{name} tree"])
