"""NT-Xent against the formula written plainly, against lightly, at the edges of number formats, and over two ranks."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss

from ranks import results_of_two
from sdclr.method import SimCLR, focal_loss, nt_xent


def plainly(a: torch.Tensor, b: torch.Tensor, temperature: float) -> list[float]:
    """Eq. 1-2 of the paper, anchor by anchor, in double precision."""
    rows = [row / row.norm() for row in torch.cat([a, b]).double()]
    n = len(a)

    def s(i: int, j: int) -> float:
        return math.exp(float(rows[i] @ rows[j]) / temperature)

    def anchor(i: int) -> float:
        positive = (i + n) % (2 * n)
        negatives = [k for k in range(2 * n) if k not in (i, positive)]
        assert len(negatives) == 2 * n - 2
        return -math.log(s(i, positive) / (s(i, positive) + sum(s(i, k) for k in negatives)))

    return [(anchor(i) + anchor(i + n)) / 2 for i in range(n)]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 6), st.floats(0.02, 2), st.integers(0, 2**16), st.booleans())
def test_equals_the_formula(n, dim, temperature, seed, tiled):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    expected = plainly(a, b, temperature)
    assert nt_xent(a, b, temperature, reduction="none", tiled=tiled).tolist() == pytest.approx(expected, abs=1e-8)
    assert float(nt_xent(a, b, temperature, tiled=tiled)) == pytest.approx(sum(expected) / n, abs=1e-8)
    assert float(nt_xent(a, b, temperature, reduction="sum", tiled=tiled)) == pytest.approx(sum(expected), abs=1e-7)


@pytest.mark.parametrize("tiled", [False, True])
def test_equals_lightly_with_gradient(tiled):
    a, b = torch.randn(2, 32, 16).requires_grad_()
    ours = torch.autograd.grad(nt_xent(a, b, 0.2, tiled=tiled), [a, b])
    theirs = torch.autograd.grad(NTXentLoss(temperature=0.2)(a, b), [a, b])
    torch.testing.assert_close(nt_xent(a, b, 0.2, tiled=tiled), NTXentLoss(temperature=0.2)(a, b))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("tiled", [False, True])
def test_gradients_are_those_of_finite_differences(tiled):
    a, b = torch.randn(2, 4, 3, dtype=torch.float64)
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: nt_xent(x, y, 0.3, reduction="none", tiled=tiled), (a, b))


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_overflows_at_low_temperature(dtype, tiled):
    a = torch.eye(8).to(dtype).requires_grad_()
    b = (-torch.eye(8)).to(dtype).requires_grad_()  # the worst case: the positive is the farthest of all
    loss = nt_xent(a, b, 0.01, reduction="none", tiled=tiled)
    loss.sum().backward()
    # exp(-100) against one exp(0) for each of the 14 orthogonal negatives
    torch.testing.assert_close(loss, torch.full((8,), 100 + math.log(14)))
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


@pytest.mark.parametrize("tiled", [False, True])
def test_autocast_does_not_lower_the_precision(tiled):
    a, b = torch.randn(2, 16, 8)
    exact = nt_xent(a, b, 0.05, tiled=tiled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(a, b, 0.05, tiled=tiled), exact)


def test_scale_of_the_outputs_does_not_matter():
    a, b = torch.randn(2, 16, 8)
    torch.testing.assert_close(nt_xent(a * 1e4, b * 1e-3, 0.2), nt_xent(a, b, 0.2))


def test_wrong_shapes_temperature_and_reduction_are_errors():
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5, 3\)"):
        nt_xent(torch.randn(4, 3), torch.randn(5, 3))
    with pytest.raises(ValueError, match="temperature must be positive"):
        nt_xent(torch.randn(4, 3), torch.randn(4, 3), 0.0)
    with pytest.raises(ValueError, match="unknown reduction"):
        nt_xent(torch.randn(4, 3), torch.randn(4, 3), reduction="median")


def test_simclr_gives_each_view_to_its_branch():
    dense, sparse = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    view1, view2 = torch.randn(2, 8, 6)
    loss = SimCLR(0.3)(dense, sparse, view1, view2)
    assert loss.shape == (8,)
    torch.testing.assert_close(loss, nt_xent(dense(view1), sparse(view2), 0.3, reduction="none"))
    assert not torch.allclose(loss, SimCLR(0.3)(dense, dense, view1, view2))


def losses_of_rank(rank, folder):
    a, b = torch.load(f"{folder}/inputs.pt", weights_only=True)
    layer = torch.nn.Linear(5, 4, bias=False)
    layer.load_state_dict(torch.load(f"{folder}/layer.pt", weights_only=True))
    model = torch.nn.parallel.DistributedDataParallel(layer)
    share = slice(rank * 3, rank * 3 + 3)
    outputs = model(torch.cat([a[share], b[share]]))
    loss = nt_xent(outputs[:3], outputs[3:], 0.2, reduction="none")
    loss.mean().backward()
    return loss.detach(), layer.weight.grad


def test_two_ranks_equal_one(tmp_path):
    a, b = torch.randn(2, 6, 5)
    layer = torch.nn.Linear(5, 4, bias=False)
    torch.save((a, b), tmp_path / "inputs.pt")
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    expected = nt_xent(layer(a), layer(b), 0.2, reduction="none")
    expected.mean().backward()
    (loss0, grad0), (loss1, grad1) = results_of_two(losses_of_rank, tmp_path)
    torch.testing.assert_close(torch.cat([loss0, loss1]), expected.detach())
    torch.testing.assert_close(grad0, layer.weight.grad)
    torch.testing.assert_close(grad1, grad0)
    assert F.cosine_similarity(loss0, loss1, dim=0) < 1  # the ranks hold different samples


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.floats(0.1, 4), st.integers(0, 2**16), st.booleans())
def test_focal_equals_the_formula(n, gamma, seed, tiled):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, 4, generator=generator, dtype=torch.float64)

    def anchor(i: int) -> float:
        rows = F.normalize(torch.cat([a, b]))
        s = (rows @ rows[i] / 0.3).exp()
        p = float(s[(i + n) % (2 * n)] / (s.sum() - s[i]))
        return (1 - p) ** gamma * -math.log(p)

    expected = [(anchor(i) + anchor(i + n)) / 2 for i in range(n)]
    found = nt_xent(a, b, 0.3, reduction="none", focal=gamma, tiled=tiled)
    assert found.tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_has_the_gradient_of_finite_differences(gamma):
    a, b = torch.randn(2, 4, 3, dtype=torch.float64)
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nt_xent(x, b, 0.3, reduction="none", focal=gamma), (a,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_where_nothing_is_left_to_learn(gamma):
    loss = torch.tensor([0.0, 1e-30, 1e-8, -1e-9, 50.0], requires_grad=True)
    found = focal_loss(loss, gamma)
    found.sum().backward()
    assert found.isfinite().all()
    assert loss.grad.isfinite().all()


def test_a_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        nt_xent(torch.randn(2, 3), torch.randn(2, 3), focal=-1.0)
