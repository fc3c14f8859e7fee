"""Log-sum-exp in tiles against the whole matrix in double precision, by finite differences, compiled and over ranks."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ranks import results_of_two
from sdclr.method import nt_xent, tiled
from sdclr.method.tiled import log_sum_exp

TILES = [(1, 1), (2, 3), (3, 2), (5, 7), (16, 16)]  # of 7 by 11 logits, which the middle ones do not divide


def unit(count: int, dim: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, dtype=dtype), dim=1)


def whole(anchors: torch.Tensor, candidates: torch.Tensor, own: int, temperature: float) -> torch.Tensor:
    """The same from the matrix, in double precision."""
    logits = anchors.double() @ candidates.double().T / temperature
    itself = torch.arange(len(candidates)) == own + torch.arange(len(anchors))[:, None]
    return logits.masked_fill(itself, -torch.inf).logsumexp(1)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 20),
    st.tuples(st.integers(0, 9), st.integers(1, 10)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([0.01, 0.02, 0.1, 1.0]),
    st.booleans(),
)
def test_equals_the_whole_matrix(count, others, tile, temperature, alone):
    before, after = others
    candidates = unit(before + count + after, dtype=torch.float32)
    anchors = candidates if alone else candidates[before : before + count]
    own = 0 if alone else before
    found = log_sum_exp(anchors, candidates, own, temperature, tile=tile)
    expected = whole(anchors, candidates, own, temperature)
    # A cosine is known to 1e-7, and τ divides it; float32 keeps seven digits of the result.
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=5e-7 / temperature)


def test_nothing_is_lost_when_some_anchors_are_far_from_all():
    # At τ = 0.01 the logits of the first rows are 100 and those of the last -100: no one maximum serves both.
    near, far = torch.eye(4)[:1].repeat(6, 1), -torch.eye(4)[:1]
    rows = torch.cat([near, far]).requires_grad_()
    found = log_sum_exp(rows, rows, 0, 0.01, tile=(2, 3))
    torch.testing.assert_close(found.double(), whole(rows, rows, 0, 0.01))
    assert found[-1].item() == pytest.approx(-100 + math.log(6))
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0.3, 0.02])  # with and without a running maximum
@pytest.mark.parametrize("tile", TILES)
def test_gradients_are_those_of_finite_differences(tile, temperature):
    rows, candidates = unit(7).requires_grad_(), unit(11).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_sum_exp(x, x, 0, temperature, tile=tile), (rows,))
    check = (rows, candidates)
    assert torch.autograd.gradcheck(lambda x, y: log_sum_exp(x, y, 3, temperature, tile=tile), check)


@pytest.mark.parametrize("temperature", [0.2, 0.02])
def test_each_samples_own_gradient_comes_back(temperature):
    """The losses are weighted one by one, negatively and by nothing too, as a rebalancer may."""
    weights = torch.linspace(-1, 2, 40, dtype=torch.float64)
    weights[7] = 0
    a, b = torch.randn(2, 40, 6, dtype=torch.float64).requires_grad_()
    losses = [nt_xent(a, b, temperature, reduction="none", tiled=way) for way in (True, False)]
    torch.testing.assert_close(*losses)
    found, expected = (torch.autograd.grad(loss @ weights, [a, b]) for loss in losses)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temperature", [0.2, 0.02])
def test_autocast_does_not_lower_the_precision_of_the_gradient(temperature):
    a = torch.randn(16, 8, requires_grad=True)
    b = torch.randn(16, 8)
    (exact,) = torch.autograd.grad(nt_xent(a, b, temperature, tiled=True), a)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(nt_xent(a, b, temperature, tiled=True), a)
    assert torch.equal(found, exact)


@pytest.mark.parametrize("temperature", [0.2, 0.02])
def test_a_second_derivative_is_refused_and_not_wrong(temperature):
    a, b = torch.randn(2, 8, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(nt_xent(a, b, temperature, tiled=True), a, create_graph=True)
    with pytest.raises(RuntimeError, match="log_sum_exp_among"):
        gradient.square().sum().backward()


def largest_made(count: int, dim: int, temperature: float, *, tiled: bool) -> tuple[int, int]:
    """Bytes of the largest tensor kept for the backward pass, and of the largest memory that either pass asks for."""
    a, b = torch.randn(2, count, dim).requires_grad_()
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.profiler.profile(profile_memory=True, acc_events=True) as profile,
    ):
        nt_xent(a, b, temperature, tiled=tiled).backward()
    return max(kept), max(event.self_cpu_memory_usage for event in profile.events())


@pytest.mark.parametrize("temperature", [0.2, 0.02])
def test_nothing_as_large_as_the_matrix_is_kept_or_made(temperature, monkeypatch):
    monkeypatch.setattr(tiled, "_ON_CPU", tiled.Tiling(height=100, width=200, worthwhile=0))
    count, dim = 400, 4
    matrix = 4 * (2 * count) ** 2
    assert min(largest_made(count, dim, temperature, tiled=False)) >= matrix
    kept, made = largest_made(count, dim, temperature, tiled=True)
    assert kept <= 4 * 2 * count * dim
    assert 4 * 100 * 200 <= made <= 4 * 2 * 100 * 200  # two tiles at most in one operation


@pytest.mark.parametrize("temperature", [0.2, 0.02])
def test_compiled_in_one_graph_and_once(temperature):
    graphs = []

    def backend(graph, _examples):
        graphs.append(graph)
        return graph.forward

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nt_xent(a, b, temperature, reduction="none")

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for _ in range(2):
        a, b = (torch.randn(300, 4, requires_grad=True) for _ in range(2))  # (2 · 300)² logits are enough for tiles
        found, expected = compiled(a, b), loss(a, b)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), [a, b]), torch.autograd.grad(expected.sum(), [a, b])
        )
    assert len(graphs) == 1
    called = [str(node.target) for node in graphs[0].graph.nodes if "log_sum_exp" in str(node.target)]
    assert len(called) == 1


def test_the_operators_keep_the_rules_of_torch():
    rows, candidates = unit(7).requires_grad_(), unit(9).requires_grad_()
    torch.library.opcheck(tiled._among_themselves, (rows, 2, 3))
    torch.library.opcheck(tiled._among_candidates, (rows, candidates, 1, 2, 3))


@pytest.mark.parametrize(("count", "uses_tiles"), [(255, False), (256, True)])
def test_tiles_are_used_where_they_are_worthwhile(count, uses_tiles, monkeypatch):
    calls = []

    def spied(*args):
        calls.append(args)
        return log_sum_exp(*args)

    monkeypatch.setattr("sdclr.method.losses.log_sum_exp", spied)
    a, b = torch.randn(2, count, 2)
    by_default = nt_xent(a, b, 0.2)
    assert bool(calls) is uses_tiles
    torch.testing.assert_close(nt_xent(a, b, 0.2, tiled=not uses_tiles), by_default)
    assert len(calls) == 1


def losses_of_rank(rank, folder):
    a, b = torch.load(f"{folder}/inputs.pt", weights_only=True)
    share = slice(rank * 3, rank * 3 + 3)
    found = []
    for temperature in (0.2, 0.02):
        layer = torch.nn.Linear(5, 4, bias=False)
        layer.load_state_dict(torch.load(f"{folder}/layer.pt", weights_only=True))
        model = torch.nn.parallel.DistributedDataParallel(layer)
        outputs = model(torch.cat([a[share], b[share]]))
        loss = nt_xent(outputs[:3], outputs[3:], temperature, reduction="none", tiled=True)
        loss.mean().backward()
        found.append((loss.detach(), layer.weight.grad))
    return found


def test_two_ranks_equal_one_without_tiles(tmp_path):
    a, b = torch.randn(2, 6, 5)
    layer = torch.nn.Linear(5, 4, bias=False)
    torch.save((a, b), tmp_path / "inputs.pt")
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    ranks = results_of_two(losses_of_rank, tmp_path)
    for (loss0, grad0), (loss1, grad1), temperature in zip(*ranks, (0.2, 0.02), strict=True):
        layer.zero_grad()
        expected = nt_xent(layer(a), layer(b), temperature, reduction="none", tiled=False)
        expected.mean().backward()
        torch.testing.assert_close(torch.cat([loss0, loss1]), expected.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad0, layer.weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad1, grad0)
