"""The loss against fixed negatives."""

import numpy as np
import pytest
import torch

from sdclr.method import nt_xent
from sdclr.mining.loss import draw_references, reference_loss


@pytest.fixture(scope="module")
def branches():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 8, generator=generator)
    return a, a + 0.5 * torch.randn(40, 8, generator=generator)


def test_it_is_the_loss_in_a_batch_of_the_image_and_the_references(branches):
    a, b = branches
    references = np.arange(10)
    found = reference_loss(a, b, references, 0.2)
    for index in (10, 25, 39):
        batch = torch.tensor([index, *references])
        expected = nt_xent(a[batch], b[batch], 0.2, reduction="none")[0]
        assert found[index] == pytest.approx(float(expected), rel=1e-5)
    within = nt_xent(a[:10], b[:10], 0.2, reduction="none")
    np.testing.assert_allclose(found[:10], within.numpy(), rtol=1e-5)


def test_it_does_not_depend_on_the_other_images(branches, monkeypatch):
    a, b = branches
    whole = reference_loss(a, b, [3, 7], 0.2)
    part = reference_loss(a[:20], b[:20], [3, 7], 0.2)
    monkeypatch.setattr("sdclr.mining.loss._BLOCK", 7)
    np.testing.assert_allclose(whole[:20], part, rtol=1e-6)
    np.testing.assert_allclose(reference_loss(a, b, [3, 7], 0.2), whole, rtol=1e-6)


def test_whole_numbers_and_no_references():
    a, b = [[1, 0], [0, 1], [3, 4]], [[1, 1], [0, 2], [4, 3]]
    floats = [np.array(values, dtype=np.float32) for values in (a, b)]
    found = reference_loss(a, b, [1], 0.5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, reference_loss(*floats, [1], 0.5))
    # Without negatives, the positive is the only candidate.
    np.testing.assert_allclose(reference_loss(a, b, [], 0.5), np.zeros(3), atol=1e-6)


def test_a_row_without_projections_has_no_loss(branches):
    a = branches[0].clone()
    a[12] = torch.nan
    found = reference_loss(a, branches[1], [3, 7], 0.2)
    assert np.flatnonzero(np.isnan(found)).tolist() == [12]


def test_references_are_drawn_once_and_for_all():
    positions = np.arange(0, 100, 2)
    drawn = draw_references(positions, 10, seed=1)
    assert len(set(drawn.tolist())) == 10
    assert set(drawn.tolist()) <= set(positions.tolist())
    assert np.array_equal(drawn, draw_references(positions, 10, seed=1))
    assert not np.array_equal(drawn, draw_references(positions, 10, seed=2))
    assert np.array_equal(draw_references(positions, 1000, seed=1), positions)
