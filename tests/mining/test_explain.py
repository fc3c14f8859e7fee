"""The reason given for each image."""

import numpy as np
import pytest

from sdclr.errors import InputError
from sdclr.mining.explain import explain
from sdclr.mining.ranking import rank_images
from sdclr.reporting.gallery_entries import KindGroup


def scores_of(ranked_by="distance_10", n=1000, *, kinds=True, **columns):
    sizes = np.r_[np.full(31, 31.0), np.full(n - 31, n - 31.0)]
    columns = {"distance_10": np.arange(n, 0, -1), "kind_size": sizes} | columns
    ids = [str(i) for i in range(n)]
    about = {"ranked_by": ranked_by}
    bad = {str(n - 1): "truncated"}
    groups = [
        KindGroup(kind=kind, size=size, separation=1.0, medoid=0, rare=kind == 1)
        for kind, size in enumerate((n - 31, 31)[: 2 if kinds else 1])
    ]
    return rank_images(
        ids, columns, columns[ranked_by], sizes < 100, score="distance", groups=groups, bad=bad, about=about
    )


def test_distance_and_kind_are_said():
    scores = scores_of()
    assert explain(scores, 0) == (
        "It is farther from its 10 nearest neighbors than 99.90 % of the collection; its kind has 31 of 999 images."
    )
    assert "than 49.9 % of" in explain(scores, 499)  # 499 of the 999 are nearer


def test_a_single_kind_is_not_worth_a_word():
    assert explain(scores_of(kinds=False), 0) == (
        "It is farther from its 10 nearest neighbors than 99.90 % of the collection."
    )


def test_what_ranks_is_said_first():
    scores = scores_of("forgetting_0.5", **{"forgetting_0.5": np.arange(1000)})
    assert explain(scores, 998).startswith(
        "Pruning 0.5 of the weights changes it more than 99.90 % of the collection; it is"
    )
    scores = scores_of("loss", loss=np.arange(1000))
    assert explain(scores, 0).startswith("Its contrastive loss is higher than that of 0.0 %")
    scores = scores_of("lof_10", lof_10=np.arange(1000))
    assert explain(scores, 0).startswith("Its local outlier factor (10 neighbors) is higher than that of 0.0 %")
    assert explain(scores_of("kind_size"), 0).startswith("Its kind has 31 of 999 images; it is farther")


def test_a_bad_image_says_so():
    assert explain(scores_of(), 999) == "It could not be used: truncated."


def test_an_image_that_is_not_there():
    with pytest.raises(InputError, match="no image 1000"):
        explain(scores_of(), 1000)
