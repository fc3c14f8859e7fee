"""L-BFGS for a convex function in coordinates in which its curvature is about one.

`torch.optim.LBFGS` and SciPy's L-BFGS start with a step of length 1 over the gradient's norm, and then need several
passes over the data to correct it. With coordinates scaled by the curvature, the first step can have full length.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

_HISTORY = 20
_DECREASE, _CURVATURE = 1e-4, 0.9
"""The weak Wolfe conditions (Nocedal & Wright, *Numerical Optimization*, 2006, section 3.1)."""
_SLACK = 1e-6
"""Differences below this share of the value may be rounding errors: then slopes are compared (Hager & Zhang, *A new
conjugate gradient method with guaranteed descent and an efficient line search*, SIAM J. Optim. 2005, equation 4.1)."""
_TRIES = 12

Objective = Callable[[Tensor], tuple[float, Tensor]]
"""Value and gradient, of the shape of the argument, which is float64."""
Memory = deque[tuple[Tensor, Tensor, float]]
"""The last steps: change of the point, change of the gradient, and their product."""


def new_memory() -> Memory:
    """An empty memory."""
    return deque(maxlen=_HISTORY)


def minimize(
    objective: Objective,
    start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    memory: Memory | None = None,
) -> tuple[Tensor, int]:
    """The minimum of a convex function by L-BFGS (Nocedal & Wright, algorithm 7.5).

    It stops when no entry of the gradient is above the tolerance. It also stops, because of rounding, when a step
    reduces neither the value by what such a gradient can still gain nor the gradient.

    Args:
        objective: The function, with a curvature of about one.
        start: Initial point.
        tolerance: Maximum of the largest gradient entry.
        max_iterations: Maximum number of steps.
        memory: Earlier steps, to which new ones are added; by default empty.

    Returns:
        The point, and the number of steps.

    Examples:
        >>> import torch
        >>> target = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> point, _ = minimize(lambda x: (float((x - target).square().sum()) / 2, x - target), 0 * target,
        ...                     tolerance=1e-9, max_iterations=10)
        >>> point.tolist()
        [1.0, 2.0]
    """
    point = start
    value, gradient = objective(point)
    steps = new_memory() if memory is None else memory
    for number in range(max_iterations):
        if float(gradient.abs().max()) <= tolerance:
            return point, number
        direction = _direction(gradient, steps)
        found = _line_search(objective, point, direction, value, float((direction * gradient).sum()))
        if found is None:
            return point, number
        moved, new_value, new_gradient = found
        change, turn = moved - point, new_gradient - gradient
        if (bend := float((change * turn).sum())) > 0:
            steps.append((change, turn, bend))
        idle = value - new_value < 0.01 * tolerance**2 and new_gradient.abs().max() >= gradient.abs().max()
        point, value, gradient = moved, new_value, new_gradient
        if idle:
            return point, number + 1
    return point, max_iterations


def _direction(gradient: Tensor, steps: Memory) -> Tensor:
    """Minus the gradient times the inverse curvature, estimated from the last steps (the two-loop recursion)."""
    direction, shares = -gradient, []
    for change, turn, bend in reversed(steps):
        shares.append(float((change * direction).sum()) / bend)
        direction = direction.sub(turn, alpha=shares[-1])
    if steps:
        _, turn, bend = steps[-1]
        direction = direction.mul(bend / float(turn.square().sum()))
    for (change, turn, bend), share in zip(steps, reversed(shares), strict=True):
        direction = direction.add(change, alpha=share - float((turn * direction).sum()) / bend)
    return direction


def _line_search(
    objective: Objective, point: Tensor, direction: Tensor, value: float, slope: float
) -> tuple[Tensor, float, Tensor] | None:
    """A point along a descent direction that meets both conditions, or the best one found; None if there is none."""
    low, high, length = 0.0, float("inf"), 1.0
    best: tuple[Tensor, float, Tensor] | None = None
    for _ in range(_TRIES):
        moved = torch.add(point, direction, alpha=length)
        new_value, gradient = objective(moved)
        new_slope = float((direction * gradient).sum())
        lower = new_value <= value + _DECREASE * length * slope
        level = new_value <= value + _SLACK * abs(value) and new_slope <= (2 * _DECREASE - 1) * slope
        if not (lower or level):
            high = length
        else:
            best = (moved, new_value, gradient)
            if abs(new_slope) <= _CURVATURE * abs(slope):
                return best
            low, high = (length, high) if new_slope < 0 else (low, length)
        length = 2 * low if high == float("inf") else (low + high) / 2
    return best
