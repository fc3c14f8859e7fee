"""A linear probe for several labels per image: one logistic regression per attribute, all solved at once."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from sdclr.data.attributes import Attributes
from sdclr.errors import InputError
from sdclr.evaluation.config import LOGISTIC, LogisticConfig
from sdclr.evaluation.logistic import Problem
from sdclr.features.extract import checked_features
from sdclr.progress import stage


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributeProbe:
    """One logistic regression for each attribute, at its optimum.

    Attributes:
        weight: (A, D) float32, on CPU; 0 if the attribute could not be trained.
        bias: (A,) float32, on CPU.
        trained: (A,) bool, whether the training images include some with and some without the attribute.
        penalty: (A,) the chosen penalty of each attribute; nan if not trained.
        converged: Whether the gradient reached `LogisticConfig.tolerance`.
    """

    weight: Tensor
    bias: Tensor
    trained: NDArray[np.bool_]
    penalty: NDArray[np.float64]
    converged: bool

    def scores(self, x: ArrayLike | Tensor) -> NDArray[np.float32]:
        """Logits (N, A) for features (N, D)."""
        features = checked_features(x, "x", width=self.weight.shape[1]).cpu()
        return torch.addmm(self.bias, features, self.weight.T).numpy()


def attribute_holdout(values: ArrayLike, fraction: float, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out about `fraction` of the images with each attribute, and of those without attributes.

    Attributes are processed from the rarest to the most frequent, each with the images that rarer ones have not yet
    assigned (Sechidis et al., ECML 2011). An attribute of two or more images has at least one image in each set, unless
    rarer attributes have assigned all of them to one set.

    Args:
        values: (N, A) 1 present, 0 absent, -1 unknown.
        fraction: Share to hold out, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        Kept and held-out positions, each ascending.

    Raises:
        InputError: If there are fewer than two images.
    """
    shown = np.asarray(values) == 1
    if len(shown) < 2:
        raise InputError(f"{len(shown)} labeled images cannot be split: label at least two")
    order = np.random.default_rng(seed).permutation(len(shown))
    held, settled = np.zeros(len(shown), dtype=bool), np.zeros(len(shown), dtype=bool)
    for attribute in np.argsort(shown.sum(axis=0), kind="stable"):
        members = order[shown[order, attribute]]
        wanted = min(max(1, round(fraction * len(members))), len(members) - 1) - int(held[members].sum())
        held[members[~settled[members]][: max(wanted, 0)]] = True
        settled[members] = True
    rest = order[~settled[order]]
    held[rest[: round(fraction * len(rest))]] = True
    if held.all() or not held.any():
        held[order[0]] = not held[order[0]]
    return np.flatnonzero(~held), np.flatnonzero(held)


@stage("fitting a linear classifier for each attribute")
def attribute_probe(
    train_x: ArrayLike | Tensor,
    train_values: ArrayLike,
    val_x: ArrayLike | Tensor,
    val_values: ArrayLike,
    config: LogisticConfig = LOGISTIC,
) -> AttributeProbe:
    """Fit one logistic regression for each attribute on cached features, all at once.

    The objective of an attribute is the mean cross-entropy over the images with a known value, plus `penalty / 2` times
    the squared norm of its weights, on standardized features as in `logistic_probe`. Each attribute uses the penalty
    with the lowest cross-entropy on the validation images with a known value; the strongest wins a tie. The computation
    runs on the device of `train_x`, without randomness.

    Args:
        train_x: (N, D) features.
        train_values: (N, A) 1 present, 0 absent, -1 unknown.
        val_x: (V, D) features for the choice of the penalties.
        val_values: (V, A) values, as in `train_values`.
        config: Penalties and tolerances.

    Returns:
        The layers of the chosen penalties, for raw features.

    Raises:
        InputError: If shapes do not match, or features are not finite.
    """
    train = checked_features(train_x, "train_x")
    validation = checked_features(val_x, "val_x", width=train.shape[1]).to(train.device)
    values, val = _checked_values(train_values, len(train)), _checked_values(val_values, len(validation))
    if values.shape[1] != val.shape[1]:
        raise InputError(f"there are {values.shape[1]} attributes in training and {val.shape[1]} in validation")
    trained = (values == 1).any(axis=0) & (values == 0).any(axis=0)
    weight, bias = torch.zeros(values.shape[1], train.shape[1]), torch.zeros(values.shape[1])
    chosen, converged = np.full(values.shape[1], np.nan), True
    if trained.any():
        with torch.no_grad():
            problem = _OneVersusRest(train, torch.from_numpy(values[:, trained]).to(train.device))
            target = torch.from_numpy(val[:, trained]).to(train.device)
            layer, chosen[trained], converged = _search(problem, validation, target, config)
        weight[torch.from_numpy(trained)], bias[torch.from_numpy(trained)] = layer[0].cpu(), layer[1].cpu()
    return AttributeProbe(weight=weight, bias=bias, trained=trained, penalty=chosen, converged=converged)


class _OneVersusRest(Problem):
    """Sum of all attributes' objectives, which has the same optimum for each attribute.

    A state is (A, D + 1) float64, the bias last. `share` is a factor on the penalty for each attribute.
    """

    def __init__(self, x: Tensor, values: Tensor) -> None:
        super().__init__(x, values, values.shape[1])
        known = values >= 0
        self.y = (values == 1).to(x.dtype)
        self.of_image = known / known.sum(dim=0)
        self.rate = (values == 1).sum(dim=0).double() / known.sum(dim=0)
        self.share = torch.ones(values.shape[1], 1, dtype=torch.float64, device=x.device)

    def start(self) -> Tensor:
        """Weights of 0, with the optimal bias for them."""
        state = torch.zeros(len(self.rate), len(self.spectrum) + 1, dtype=torch.float64, device=self.rate.device)
        state[:, -1] = torch.logit(self.rate)
        return state

    def precise(self) -> None:
        super().precise()
        self.y, self.of_image = self.y.double(), self.of_image.double()

    def _scale(self, penalty: float) -> Tensor:
        """(A, D + 1): the curvature of a logistic regression along eigenvalue s is about `rate (1 - rate) s`."""
        spectrum = torch.cat([self.spectrum, self.spectrum.new_ones(1)])
        curvature = (self.rate * (1 - self.rate))[:, None]
        return (curvature * spectrum + penalty * self.share).rsqrt_()

    def _state(self, weights: Tensor) -> Tensor:
        return weights  # no centering: attributes are independent

    def _objective(self, state: Tensor, penalty: float) -> tuple[float, Tensor]:
        self.evaluations += 1
        weight, bias = state[:, :-1], state[:, -1].to(self.x.dtype)
        logits = torch.addmm(bias, self.x, weight.to(self.x.dtype).T)
        losses = _cross_entropy(logits, self.y).mul_(self.of_image)
        loss = losses.sum(dtype=torch.float64) + penalty / 2 * (self.share * weight.square()).sum()
        # The gradient of the cross-entropy in the logit is `sigmoid - y`, so autograd is not needed.
        error = logits.sigmoid_().sub_(self.y).mul_(self.of_image)
        gradient = torch.empty_like(state)
        gradient[:, :-1] = (error.T @ self.x).double() + penalty * self.share * weight
        gradient[:, -1] = error.sum(dim=0, dtype=torch.float64)
        return float(loss), gradient


def _search(
    problem: _OneVersusRest, validation: Tensor, target: Tensor, config: LogisticConfig
) -> tuple[tuple[Tensor, Tensor], NDArray[np.float64], bool]:
    """The layer (weight, bias) with the penalties that the validation set chose, these penalties, and convergence."""
    penalties = sorted(config.penalties, reverse=True)
    known = target >= 0
    state, states, losses = problem.start(), [], []
    for penalty in penalties:
        state = problem.minimize(state, penalty, config.search_tolerance, config.max_iterations)
        weight, bias = problem.layer(state)
        states.append(state)
        logits = torch.addmm(bias, validation, weight.T).double()
        losses.append((_cross_entropy(logits, (target == 1).double()) * known).sum(dim=0))
    best = torch.stack(losses).cpu().numpy().argmin(axis=0)
    chosen = np.array(penalties)[best]
    state = torch.stack([states[number][attribute] for attribute, number in enumerate(best.tolist())])
    problem.precise()
    problem.share = torch.from_numpy(chosen)[:, None].to(state.device)
    state = problem.minimize(state, 1.0, config.tolerance, config.max_iterations)
    return problem.layer(state), chosen, problem.gradient(state, 1.0) <= config.tolerance


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.softplus(logits) - y * logits


def _checked_values(values: ArrayLike, count: int) -> NDArray[np.int8]:
    array = np.asarray(values)
    if array.ndim != 2 or len(array) != count:
        raise InputError(f"attributes have shape {array.shape} for {count} images: give one row per image")
    return Attributes(values=array, names=tuple(str(number) for number in range(array.shape[1]))).values
