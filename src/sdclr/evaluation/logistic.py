"""A linear probe at its optimum: multinomial logistic regression on cached features, by L-BFGS.

`linear_probe` follows the paper's protocol: a number of epochs of SGD. This asks for the best layer instead. The
objective is convex, so the answer depends on no learning rate, no schedule and no seed; the one thing to choose is the
L2 penalty, and the validation set chooses it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sdclr.evaluation.config import LOGISTIC, LogisticConfig
from sdclr.evaluation.probes import LinearClassifier, edge_of_grid
from sdclr.features.extract import checked_features, checked_labels
from sdclr.progress import stage

_SCALE = 1e4
"""What the objective is multiplied by: torch's L-BFGS forgets curvature below an absolute 1e-10, which near the optimum
of a mean over images it always is."""

_HISTORY = 20
_CONSTANT = 1e-6
"""A feature that varies by less than this share of its mean varies by rounding alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LogisticProbe(LinearClassifier):
    """A logistic regression at its optimum, and how it was chosen.

    Attributes:
        penalty: The penalty that won.
        converged: Whether the gradient came down to `LogisticConfig.tolerance`.
        gradient: Largest entry of the gradient at the end, in the coordinates that were optimised.
        iterations: Iterations of L-BFGS, over all penalties.
        evaluations: Times that the objective was evaluated on all images.
        by_penalty: Validation accuracy for every penalty, each solved to `LogisticConfig.search_tolerance`.
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

    The mean cross-entropy plus `penalty / 2` times the squared norm of the weights is minimised, where the weights are
    those of features standardised to mean 0 and deviation 1 on the training set, and biases go free. The layer
    returned takes raw features. Penalties are solved from the strongest on, each from the optimum of the one before;
    the layer of best validation accuracy is then solved in double precision to `config.tolerance`. It runs on the
    device that `train_x` is on and draws nothing at random.

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
        state = torch.zeros(num_classes, train.shape[1] + 1, dtype=torch.float64, device=train.device)
        states, by_penalty = {}, {}
        for penalty in sorted(config.penalties, reverse=True):
            state = problem.minimise(state, penalty, config.search_tolerance, config.max_iterations)
            states[penalty], by_penalty[penalty] = state, accuracy(problem.layer(state))
        penalty = max(by_penalty, key=lambda candidate: (by_penalty[candidate], candidate))
        problem.precise()
        state = problem.minimise(states[penalty], penalty, config.tolerance, config.max_iterations)
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

    Features are standardised and turned into the eigenbasis of their covariance, which leaves the norm of the weights
    and so the penalty as they are. There the curvature along eigenvalue `s` is about `s / K + penalty` as long as all K
    classes are about equally likely. L-BFGS sees each weight multiplied by the root of that curvature, and then needs
    a quarter of the steps.

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

    def minimise(self, start: Tensor, penalty: float, tolerance: float, max_iterations: int) -> Tensor:
        """The state that L-BFGS reaches from `start`."""
        scale = self._scale(penalty)
        parameters = start / scale
        optimiser = torch.optim.LBFGS(
            [parameters],
            max_iter=max_iterations,
            max_eval=2 * max_iterations,
            tolerance_grad=_SCALE * tolerance,
            tolerance_change=_SCALE * 0.01 * tolerance**2,  # a decrease that no gradient above the tolerance leaves
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            loss, gradient = self._objective(parameters * scale, penalty)
            parameters.grad = gradient.mul_(scale * _SCALE)
            return _SCALE * loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch leaves it so
        self.iterations += int(optimiser.state[parameters]["n_iter"])
        return parameters * scale

    def gradient(self, state: Tensor, penalty: float) -> float:
        """Largest entry of the gradient, in the coordinates of L-BFGS."""
        return float((self._objective(state, penalty)[1] * self._scale(penalty)).abs().max())

    def layer(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,), float32, for raw features."""
        weight = state[:, :-1] @ self.basis.T / self.deviation
        return weight.float(), (state[:, -1] - weight @ self.mean).float()

    def _scale(self, penalty: float) -> Tensor:
        """(D + 1,) what each of L-BFGS's parameters is multiplied by; the bias is that of a feature of deviation 1."""
        spectrum = torch.cat([self.spectrum, self.spectrum.new_ones(1)])
        return (spectrum / self.num_classes + penalty).rsqrt_()

    def _objective(self, state: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Value and gradient (K, D + 1) at a state, summed in double precision whatever that of the features."""
        self.evaluations += 1
        weight, bias, count = state[:, :-1], state[:, -1].to(self.x.dtype), len(self.x)
        logarithms = torch.addmm(bias, self.x, weight.to(self.x.dtype).T).log_softmax(dim=1)
        loss = -logarithms.gather(1, self.y).mean(dtype=torch.float64) + penalty / 2 * weight.square().sum()
        # The gradient of the cross-entropy in the logits is `softmax - onehot`; written out, it needs no autograd.
        error = logarithms.exp_()
        error.scatter_add_(1, self.y, error.new_full((1, 1), -1.0).expand(count, 1))
        gradient = torch.empty_like(state)
        gradient[:, :-1] = (error.T @ self.x).double() / count + penalty * weight
        gradient[:, -1] = error.mean(dim=0, dtype=torch.float64)
        return float(loss), gradient
