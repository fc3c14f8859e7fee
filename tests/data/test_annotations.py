import pickle

import numpy as np
import pytest

from sdclr.data.annotations import NumberedIds, check_unique, encode_labels
from sdclr.errors import InputError


def test_numbered_ids_are_a_sequence():
    ids = NumberedIds("train", 12)
    assert list(ids) == [f"train/{number:05d}" for number in range(12)]
    assert ids[-1] == "train/00011"
    assert ids[2:4] == ["train/00002", "train/00003"]
    assert "train/00003" in ids
    with pytest.raises(IndexError):
        ids[12]


def test_numbered_ids_sort_as_they_count_and_cost_nothing_to_send():
    ids = NumberedIds("big", 1_000_001)
    assert ids[7] == "big/0000007"
    assert ids[1_000_000] == "big/1000000"
    assert len(pickle.dumps(ids)) < 200


@pytest.mark.parametrize(
    ("values", "ids", "classes"),
    [
        ([3, 0, -1], [3, 0, -1], ()),
        (["2", " 0 ", ""], [2, 0, -1], ()),
        (["1.0", "2.", None], [1, 2, -1], ()),
        ([1.0, float("nan"), 2.0], [1, -1, 2], ()),
        (["owl", "cat", None, "owl", ""], [1, 0, -1, 1, -1], ("cat", "owl")),
        (["7a", "3"], [1, 0], ("3", "7a")),
        ([0.5, 1.5], [0, 1], ("0.5", "1.5")),
        ([True, False], [1, 0], ("False", "True")),
        ([None, None], [-1, -1], ()),
    ],
)
def test_labels_are_encoded(values, ids, classes):
    encoded, names = encode_labels(values, "x")
    assert encoded.dtype == np.int64
    assert encoded.tolist() == ids
    assert names == classes


def test_labels_below_unknown_are_refused():
    with pytest.raises(InputError, match=r"list\.csv: holds label -2"):
        encode_labels([0, -2], "list.csv")


def test_repeated_ids_are_refused():
    check_unique(["a", "b"], "x", "mend it")
    with pytest.raises(InputError, match="x: has two images named 'a'; mend it"):
        check_unique(["a", "b", "a"], "x", "mend it")


@pytest.mark.parametrize("label", ["9" * 19, "1" * 5_000, 2**64, -(2**70), 1e300, float("inf")])
def test_numbers_that_no_array_holds_are_names(label):
    ids, classes = encode_labels([label, "3"], "a.csv")
    assert sorted(ids.tolist()) == [0, 1]
    assert set(classes) == {str(label), "3"}
