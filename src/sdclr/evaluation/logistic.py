"""A linear probe at its optimum: multinomial logistic regression on cached features, by L-BFGS.

`linear_probe` follows the paper's protocol: a number of epochs of SGD. This asks for the best layer instead. The
objective is convex, so the answer depends on no learning rate, no schedule and no seed; the one thing to choose is the
L2 penalty, and the validation set chooses it.
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
"""Images whose logits are computed at once."""
_ROUNDING = 1e-5
"""Entries of the gradient from which on it takes double precision to make them smaller."""
_CONSTANT = 1e-6
"""A feature that varies by less than this share of its mean varies by rounding alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LogisticProbe(LinearClassifier):
    """A logistic regression at its optimum, and how it was chosen.

    Attributes:
        penalty: The penalty that won.
        converged: Whether the gradient came down to `LogisticConfig.tolerance`.
        gradient: Largest entry of the gradient at the end, in the coordinates that were optimized.
        iterations: Iterations of L-BFGS, over all penalties.
        evaluations: Times that the objective was evaluated on all images.
        by_penalty: Validation accuracy for every penalty that was tried, each solved to
            `LogisticConfig.search_tolerance`.
        edge: The end of the grid the winner lies on, if no penalty inside does as well: a better one may lie beyond it.
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
    """Fit a linear layer on cached features to the optimum of its penalised likelihood.

    The mean cross-entropy plus `penalty / 2` times the squared norm of the weights is minimized, where the weights are
    those of features standardized to mean 0 and deviation 1 on the training set, and biases go free. The layer
    returned takes raw features. Penalties are solved from the strongest on, each from where the two before it point;
    those that are much too weak are left out. The layer of best validation accuracy is then solved to
    `config.tolerance`, at last in double precision. It runs on the device that `train_x` is on and draws nothing at
    random.

    Args:
        train_x: (N, D) features.
        train_y: (N,) class ids in `[0, num_classes)`.
        val_x: (V, D) features that choose the penalty.
        val_y: (V,) class ids.
        num_classes: Number of classes K.
        config: `LOGISTIC` or your own.

    Returns:
        The layer of the chosen penalty; the strongest wins a tie.

    Raises:
        InputError: Shapes or labels that do not fit, or features that are not finite.
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
            states[penalty] = problem.minimise(start, penalty, config.search_tolerance, config.max_iterations, steps)
            by_penalty[penalty] = accuracy(problem.layer(states[penalty]))
            if by_penalty[penalty] > max((by_penalty[other] for other in by_penalty if other > penalty), default=-1.0):
                memory = steps  # of the penalty that is the best so far, which is solved further below
            if len(by_penalty) - list(by_penalty.values()).index(max(by_penalty.values())) > config.patience:
                break
        penalty = max(by_penalty, key=lambda candidate: (by_penalty[candidate], candidate))
        last = config.max_iterations
        state = problem.minimise(states[penalty], penalty, max(config.tolerance, _ROUNDING), last, memory)
        problem.precise()
        state = problem.minimise(state, penalty, config.tolerance, last, memory)
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
    """The objective in coordinates in which it is well conditioned.

    Features are standardized and turned into the eigenbasis of their covariance, which leaves the norm of the weights
    and so the penalty as they are. There the curvature of a class along eigenvalue `s` is about `p s + penalty`, where
    `p` is the share of the images that are of the class, as long as no image is classified with certainty. L-BFGS sees
    each weight multiplied by the root of that curvature, and then needs a fraction of the steps.

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
        """Go on in double precision. Single is faster, but its rounding hides the last digits of the optimum."""
        self.x = self.x.double()

    def expected(self, states: Mapping[float, Tensor], penalty: float) -> Tensor:
        """Where the optimum at a penalty is to be expected: on the line through the last two, by the logarithm.

        Without any it is the optimum at an endless penalty: no weights, and the frequencies of the classes.
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

    def minimise(
        self, start: Tensor, penalty: float, tolerance: float, max_iterations: int, memory: Memory | None = None
    ) -> Tensor:
        """The state that L-BFGS reaches from `start`, with what it remembers of the same penalty."""
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
        """The same for all classes may be added to their weights; as at the optimum, these add up to zero.

        Otherwise the penalty alone would bend the objective in that direction, and make it slow.
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
        """(K,) share of the images that are of each class; at least that of one image."""
        counts = torch.bincount(self.y.flatten(), minlength=self.num_classes).clamp_(min=1).double()
        return counts / counts.sum()

    def _scale(self, penalty: float) -> Tensor:
        """(K, D + 1) what each of L-BFGS's parameters is multiplied by; the bias is free of the penalty."""
        spectrum = torch.cat([self.spectrum, self.spectrum.new_ones(1)])
        penalties = torch.full_like(spectrum, penalty)
        penalties[-1] = 0
        return (self.frequency[:, None] * spectrum + penalties).rsqrt_()

    def _objective(self, state: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Value and gradient (K, D + 1) at a state, summed in double precision whatever that of the features."""
        self.evaluations += 1
        weight, bias = state[:, :-1].to(self.x.dtype).contiguous(), state[:, -1].to(self.x.dtype)
        loss = torch.zeros((), dtype=torch.float64, device=state.device)
        gradient = torch.zeros_like(state)
        # Some rows at a time, so that logits stay in the cache.
        for x, y in zip(torch.split(self.x, _ROWS), torch.split(self.y, _ROWS), strict=True):
            logarithms = product(x, weight, bias).log_softmax(dim=1)
            loss -= logarithms.gather(1, y).sum(dtype=torch.float64)
            # The gradient of the cross-entropy in the logits is `softmax - onehot`; written out, it needs no autograd.
            error = logarithms.exp_()
            error.scatter_add_(1, y, error.new_full((1, 1), -1.0).expand(len(y), 1))
            gradient[:, :-1] += product(error.T, x.T)
            gradient[:, -1] += error.sum(dim=0, dtype=torch.float64)
        gradient /= len(self.x)
        gradient[:, :-1] += penalty * state[:, :-1]
        return float(loss) / len(self.x) + penalty / 2 * float(state[:, :-1].square().sum()), gradient
