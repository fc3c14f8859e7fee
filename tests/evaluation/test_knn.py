import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from sdclr.errors import InputError
from sdclr.evaluation.knn import knn_predict


def _oracle(train_x, train_y, query_x, k, temperature):
    """Cosine distance is 1 - similarity."""
    model = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d) / temperature), metric="cosine", algorithm="brute")
    return model.fit(train_x, train_y).predict(query_x)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.sampled_from([0.05, 0.1, 1.0]), st.sampled_from([1, 7, 1024]))
def test_agrees_with_sklearn(seed, k, temperature, block):
    generator = np.random.default_rng(seed)
    train_x, query_x = generator.normal(size=(40, 6)), generator.normal(size=(23, 6))
    train_y = generator.integers(0, 4, 40)
    train_y[:4] = np.arange(4)
    ours = knn_predict(train_x, train_y, query_x, 4, k=k, temperature=temperature, block=block)
    np.testing.assert_array_equal(ours, _oracle(train_x, train_y, query_x, k, temperature))


def test_votes_of_many_images_in_groups_are_those_of_sklearn():
    generator = np.random.default_rng(4)
    train_x, query_x = generator.normal(size=(2001, 6)), generator.normal(size=(45, 6))
    train_y = generator.integers(0, 7, 2001)
    ours = knn_predict(train_x, train_y, query_x, 7, k=25, block=32)  # two blocks share a buffer, the second in part
    np.testing.assert_array_equal(ours, _oracle(train_x, train_y, query_x, 25, 0.1))


def test_the_weights_decide_between_one_near_and_two_far():
    train_x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    query = np.array([[1.0, 0.2]])
    assert knn_predict(train_x, [0, 1, 1], query, 2, k=3, temperature=0.1) == [0]
    assert knn_predict(train_x, [0, 1, 1], query, 2, k=3, temperature=100.0) == [1]


def test_k_is_clipped_and_classes_without_images_never_win():
    train_x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    predictions = knn_predict(train_x, [2, 4], torch.tensor([[1.0, 0.1], [0.1, 1.0]]), 9)
    np.testing.assert_array_equal(predictions, [2, 4])
    assert predictions.dtype == np.int64


def test_a_low_temperature_does_not_overflow():
    generator = np.random.default_rng(0)
    train_x, train_y = generator.normal(size=(50, 8)), generator.integers(0, 5, 50)
    sharp = knn_predict(train_x, train_y, train_x + 0.01, 5, temperature=1e-4)
    np.testing.assert_array_equal(sharp, train_y)


def test_scale_of_a_feature_vector_does_not_matter():
    generator = np.random.default_rng(0)
    train_x, query_x = generator.normal(size=(50, 8)), generator.normal(size=(20, 8))
    train_y = generator.integers(0, 5, 50)
    scaled = train_x * generator.uniform(0.1, 10, size=(50, 1))
    np.testing.assert_array_equal(knn_predict(train_x, train_y, query_x, 5), knn_predict(scaled, train_y, query_x, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"block": -1}, "block=-1"),
        ({"train_y": [0, 1]}, "one label per image"),
        ({"train_y": [0, 1, 5]}, "train_y holds 5"),
        ({"query_x": np.ones((2, 3))}, "3 features per image, not 2"),
        ({"train_x": np.array([[1.0, 0.0], [np.nan, 1.0], [1.0, 1.0]])}, "train_x row 1 is not finite"),
        ({"query_x": np.ones((0, 2))}, "at least one row"),
    ],
)
def test_names_what_is_wrong(change, message):
    arguments = {"train_x": np.eye(3, 2), "train_y": [0, 1, 0], "query_x": np.ones((2, 2))} | change
    with pytest.raises(InputError, match=message):
        knn_predict(num_classes=2, **arguments)
