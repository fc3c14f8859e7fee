"""A linear probe at its optimum: multinomial logistic regression on cached features, by L-BFGS.

`linear_probe` follows the paper's protocol: a number of epochs of SGD. This module finds the optimal layer instead. The
objective is convex, so the result does not depend on a learning rate, a schedule or a seed. The only hyperparameter is
the L2 penalty, which the validation set chooses.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sdclr.evaluation.config import LOGISTIC, LogisticConfig
from sdclr.evaluation.lbfgs import Memory, minimize, new_memory
from sdclr.evaluation.probes import LinearClassifier, edge_of_grid
from sdclr.features.extract import checked_features, checked_labels
from sdclr.products import product
from sdclr.progress import stage

_ROWS = 2048
"""Number of images whose logits are computed at once."""
_ROUNDING = 1e-5
"""Tolerance of the gradient below which double precision is needed."""
_CONSTANT = 1e-6
"""A feature whose deviation is below this share of its mean counts as constant up to rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LogisticProbe(LinearClassifier):
    """A logistic regression at its optimum, with details of the search.

    Attributes:
        penalty: The chosen penalty.
        converged: Whether the gradient reached `LogisticConfig.tolerance`.
        gradient: Largest entry of the final gradient, in the optimized coordinates.
        iterations: Iterations of L-BFGS, over all penalties.
        evaluations: Number of evaluations of the objective on all images.
        by_penalty: Validation accuracy of every tested penalty, each solved to `LogisticConfig.search_tolerance`.
        edge: The end of the grid with the chosen penalty, if no penalty inside is as good: a better one may be outside
            the grid.
    """

    penalty: float
    converged: bool
    gradient: float
    iterations: int
    evaluations: int
    by_penalty: dict[float, float]
    edge: Literal["lowest", "highest"] | None


@stage("fitting a linear classifier")
def logistic_probe(  # noqa: PLR0917  as linear_probe
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    val_x: ArrayLike | Tensor,
    val_y: ArrayLike | Tensor,
    num_classes: int,
    config: LogisticConfig = LOGISTIC,
) -> LogisticProbe:
    """Fit a linear layer on cached features to the optimum of its penalized likelihood.

    The objective is the mean cross-entropy plus `penalty / 2` times the squared norm of the weights. These weights are
    for features standardized to mean 0 and deviation 1 on the training set; biases have no penalty. The returned layer
    takes raw features. Penalties are solved from the strongest to the weakest, each from an extrapolation of the two
    before it, until weaker ones stop improving. The layer of best validation accuracy is then solved to
    `config.tolerance`, finally in double precision. The computation runs on the device of `train_x`, without
    randomness.

    Args:
        train_x: (N, D) features.
        train_y: (N,) class ids in `[0, num_classes)`.
        val_x: (V, D) features for the choice of the penalty.
        val_y: (V,) class ids.
        num_classes: Number of classes K.
        config: Penalties and tolerances.

    Returns:
        The layer of the chosen penalty; the strongest wins a tie.

    Raises:
        InputError: If shapes or labels do not match, or features are not finite.
    """
    train = checked_features(train_x, "train_x")
    validation = checked_features(val_x, "val_x", width=train.shape[1]).to(train.device)
    labels = checked_labels(train_y, "train_y", count=len(train), num_classes=num_classes).to(train.device)
    val_labels = checked_labels(val_y, "val_y", count=len(validation), num_classes=num_classes).to(train.device)

    def accuracy(layer: tuple[Tensor, Tensor]) -> float:
        return float((torch.addmm(layer[1], validation, layer[0].T).argmax(dim=1) == val_labels).double().mean())

    with torch.no_grad():
        problem = Problem(train, labels, num_classes)
        states: dict[float, Tensor] = {}
        memory = new_memory()
        by_penalty: dict[float, float] = {}
        for penalty in sorted(config.penalties, reverse=True):
            start, steps = problem.expected(states, penalty), new_memory()
            states[penalty] = problem.minimize(start, penalty, config.search_tolerance, config.max_iterations, steps)
            by_penalty[penalty] = accuracy(problem.layer(states[penalty]))
            if by_penalty[penalty] > max((by_penalty[other] for other in by_penalty if other > penalty), default=-1.0):
                memory = steps  # for the best penalty so far, which is solved further below
            if len(by_penalty) - list(by_penalty.values()).index(max(by_penalty.values())) > config.patience:
                break
        penalty = max(by_penalty, key=lambda candidate: (by_penalty[candidate], candidate))
        last = config.max_iterations
        state = problem.minimize(states[penalty], penalty, max(config.tolerance, _ROUNDING), last, memory)
        problem.precise()
        state = problem.minimize(state, penalty, config.tolerance, last, memory)
        weight, bias = problem.layer(state)
        gradient = problem.gradient(state, penalty)
        return LogisticProbe(
            weight=weight.cpu(),
            bias=bias.cpu(),
            validation_accuracy=accuracy((weight, bias)),
            penalty=penalty,
            converged=gradient <= config.tolerance,
            gradient=gradient,
            iterations=problem.iterations,
            evaluations=problem.evaluations,
            by_penalty=by_penalty,
            edge=edge_of_grid(by_penalty, penalty),
        )


class Problem:
    """The objective in well-conditioned coordinates.

    Features are standardized and rotated into the eigenbasis of their covariance. This changes neither the norm of the
    weights nor the penalty. In this basis the curvature of a class along eigenvalue `s` is about `p s + penalty`, where
    `p` is the class's share of the images, as long as no image is classified with certainty. L-BFGS optimizes each
    weight multiplied by the root of that curvature, and therefore needs far fewer steps.

    A state is a layer in the eigenbasis, (K, D + 1) float64, the bias last.
    """

    def __init__(self, x: Tensor, y: Tensor, num_classes: int) -> None:
        deviation, mean = torch.std_mean(x, dim=0, correction=0)
        self.mean, self.deviation = mean.double(), deviation.double()
        self.deviation[~(deviation > _CONSTANT * mean.abs())] = 1
        standard = (x - mean).div_(self.deviation.float())
        spectrum, self.basis = torch.linalg.eigh((standard.T @ standard).double() / len(x))
        self.spectrum = spectrum.clamp_(min=0)
        self.x, self.y = standard @ self.basis.float(), y[:, None]
        self.num_classes = num_classes
        self.iterations = self.evaluations = 0

    def precise(self) -> None:
        """Switch to double precision. Single precision is faster, but rounding limits its accuracy."""
        self.x = self.x.double()

    def expected(self, states: Mapping[float, Tensor], penalty: float) -> Tensor:
        """Expected optimum at a penalty: linear extrapolation of the last two states in the logarithm of the penalty.

        Without states it is the optimum at an infinite penalty: zero weights, and biases from the class frequencies.
        """
        if not states:
            weights = self.spectrum.new_zeros(self.num_classes, len(self.spectrum))
            return torch.cat([weights, self.frequency.log()[:, None]], dim=1)
        *_, last = states
        if len(states) == 1:
            return states[last]
        *_, before, _ = states
        further = math.log(penalty / last) / math.log(last / before)
        return states[last] + further * (states[last] - states[before])

    def minimize(
        self, start: Tensor, penalty: float, tolerance: float, max_iterations: int, memory: Memory | None = None
    ) -> Tensor:
        """The state that L-BFGS reaches from `start`, with its memory for the same penalty."""
        scale = self._scale(penalty)

        def objective(parameters: Tensor) -> tuple[float, Tensor]:
            value, gradient = self._objective(self._state(parameters * scale), penalty)
            return value, gradient.mul_(scale)

        found, iterations = minimize(
            objective, start / scale, tolerance=tolerance, max_iterations=max_iterations, memory=memory
        )
        self.iterations += iterations
        return self._state(found * scale)

    def _state(self, weights: Tensor) -> Tensor:
        """Center the weights over classes, since a common offset does not change predictions. The optimum is centered.

        Otherwise only the penalty would give curvature in that direction, and convergence would be slow.
        """
        return weights - weights.mean(dim=0)

    def gradient(self, state: Tensor, penalty: float) -> float:
        """Largest entry of the gradient, in the coordinates of L-BFGS."""
        return float((self._objective(state, penalty)[1] * self._scale(penalty)).abs().max())

    def layer(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,), float32, for raw features."""
        weight = state[:, :-1] @ self.basis.T / self.deviation
        return weight.float(), (state[:, -1] - weight @ self.mean).float()

    @functools.cached_property
    def frequency(self) -> Tensor:
        """(K,) share of the images of each class; at least that of one image."""
        counts = torch.bincount(self.y.flatten(), minlength=self.num_classes).clamp_(min=1).double()
        return counts / counts.sum()

    def _scale(self, penalty: float) -> Tensor:
        """(K, D + 1) factor on each of L-BFGS's parameters; the bias has no penalty."""
        spectrum = torch.cat([self.spectrum, self.spectrum.new_ones(1)])
        penalties = torch.full_like(spectrum, penalty)
        penalties[-1] = 0
        return (self.frequency[:, None] * spectrum + penalties).rsqrt_()

    def _objective(self, state: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Value and gradient (K, D + 1) at a state, summed in double precision."""
        self.evaluations += 1
        weight, bias = state[:, :-1].to(self.x.dtype).contiguous(), state[:, -1].to(self.x.dtype)
        loss = torch.zeros((), dtype=torch.float64, device=state.device)
        gradient = torch.zeros_like(state)
        # In blocks of rows, so that logits stay in the cache.
        for x, y in zip(torch.split(self.x, _ROWS), torch.split(self.y, _ROWS), strict=True):
            logarithms = product(x, weight, bias).log_softmax(dim=1)
            loss -= logarithms.gather(1, y).sum(dtype=torch.float64)
            # The gradient of the cross-entropy in the logits is `softmax - onehot`, so autograd is not needed.
            error = logarithms.exp_()
            error.scatter_add_(1, y, error.new_full((1, 1), -1.0).expand(len(y), 1))
            gradient[:, :-1] += product(error.T, x.T)
            gradient[:, -1] += error.sum(dim=0, dtype=torch.float64)
        gradient /= len(self.x)
        gradient[:, :-1] += penalty * state[:, :-1]
        return float(loss) / len(self.x) + penalty / 2 * float(state[:, :-1].square().sum()), gradient
