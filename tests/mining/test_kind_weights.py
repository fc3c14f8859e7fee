"""Weights that sample each kind alike often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sdclr.cli import main
from sdclr.data.sources import SubsetSource, digits
from sdclr.errors import InputError
from sdclr.mining.kind_weights import kind_weights, weights_of_scores
from sdclr.mining.mine import mine
from sdclr.training.feed import weights_digest
from sdclr.training.run import Run


def test_each_kind_gets_the_same_sum_without_a_limit():
    kinds = np.repeat([0, 1, 2], [70, 20, 10])
    weights = kind_weights(kinds, cap=100)
    np.testing.assert_allclose(np.bincount(kinds, weights), 100 / 3)
    assert weights.mean() == pytest.approx(1)


def test_the_limit_takes_from_small_kinds_and_gives_to_the_others():
    kinds = np.repeat([0, 1, 2], [2820, 183, 65])
    weights = kind_weights(kinds)
    # One third each would be 5.6 times the mean for kind 1, and 15.7 times for kind 2, which the limit makes 10.
    expected = {2: 10.0, 1: (3068 - 650) / 2 / 183, 0: (3068 - 650) / 2 / 2820}
    for kind, weight in expected.items():
        np.testing.assert_allclose(weights[kinds == kind], weight)


@given(arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(-1, 5)), st.floats(1, 30))
def test_the_mean_is_one_and_the_limit_holds(kinds, cap):
    weights = kind_weights(kinds, cap=cap)
    assert weights.mean() == pytest.approx(1)
    assert weights.max() <= cap * (1 + 1e-6)
    known = np.unique(kinds[kinds >= 0])
    of_kind = [weights[kinds == kind] for kind in known]
    assert all(np.ptp(each) < 1e-9 for each in of_kind)
    sizes = [len(each) for each in of_kind]
    order = np.argsort(sizes)
    assert (np.diff([of_kind[number][0] for number in order]) <= 1e-9).all()  # a smaller kind never has less weight
    assert (weights[kinds < 0] == 1).all()


@pytest.mark.parametrize(
    ("kinds", "cap", "message"),
    [
        ([[0, 1]], 10, "kinds have shape (1, 2)"),
        ([0.5, 1.0], 10, "type float64: give one whole number for each image"),
        ([0, 1], 0.5, "cap=0.5: the largest weight is 1 or more times the mean"),
        ([0, 1], float("nan"), "cap=nan"),
    ],
)
def test_what_cannot_be_used_is_named(kinds, cap, message):
    with pytest.raises(InputError) as caught:
        kind_weights(kinds, cap=cap)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """The digits with embeddings in two separate groups: the last 200, and the others."""
    folder = tmp_path_factory.mktemp("mined")
    centers = np.eye(16)[np.repeat([0, 1], [1097, 200])]
    vectors = centers + 0.05 * np.random.default_rng(0).normal(size=centers.shape)
    scores = mine("digits", encoder=vectors.astype(np.float32), out=folder)
    assert [group.size for group in scores.groups] == [1097, 200]
    return folder


def test_the_scores_of_mine_are_read_by_id(mined):
    images = SubsetSource(digits("train"), np.array([1296, 0, 1295]))
    np.testing.assert_allclose(weights_of_scores(images, mined), [0.75, 1.5, 0.75])
    np.testing.assert_allclose(weights_of_scores(images, mined / "scores.parquet"), [0.75, 1.5, 0.75])


def test_images_without_a_kind_are_an_error(mined):
    with pytest.raises(InputError, match=r"scores.parquet has no kind for 500 of 500 images of digits-test"):
        weights_of_scores(digits("test"), mined)
    with pytest.raises(InputError, match="none is missing"):
        weights_of_scores(digits("train"), mined / "none")


def test_the_command_samples_by_kind(mined, tmp_path, capsys):
    options = ["pretrain", "digits", "--steps", "2", "--batch-size", "64", "--encoder.width", "4", "--device", "cpu"]
    main([*options, "--kinds", str(mined), "--run", str(tmp_path / "kinds")])
    assert f"sampling: each kind of {mined} alike, an image 0.59 to 3.2 times the mean" in "".join(
        capsys.readouterr().out.splitlines()
    )
    drawn = weights_of_scores(digits("train"), mined)
    assert Run(tmp_path / "kinds").source["weights"] == weights_digest(drawn)
