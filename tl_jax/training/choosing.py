"""Where to cut and how strongly to regularise a linear probe, by cross-validation inside the training examples.

All folds and strengths of a cut are one problem: kernels side by side, one matrix product for all of them, an objective
that is the sum of theirs, minimised by L-BFGS on standardised features in the metric of a Hessian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tl_jax.data.shuffling import permutations

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # C, of standardised features
FOLDS = 5
_ITERATIONS = 150
_BIAS = 1e-3  # a penalty on the bias, for a class that a fold has none of
_LOGITS = 5 * 10**7  # at once; strengths that this has no room for are fitted after the others

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Choice:
    """The best cut and strength C, and the share of held-out examples that each cut gets right at its own best C."""

    cut: str
    strength: float
    accuracy: Mapping[str, float]


def choose(features: Mapping[str, Any], targets: Array, classes: int, seed: int) -> Choice:
    """The cut and strength that get most of the held-out examples right; of equal ones that with the lower loss.

    `features` are `{cut: [N, D]}`, `targets` integers `[N]` below `classes`.
    """
    fold = folds(targets, seed)
    found = {
        (cut, strength): score
        for cut, x in features.items()
        for strength, score in held_out(x, targets, classes, fold).items()
    }
    cut, strength = max(found, key=lambda key: found[key])
    accuracy = {name: max(score[0] for (c, _), score in found.items() if c == name) for name in features}
    return Choice(cut, strength, accuracy)


def folds(targets: Array, seed: int) -> Array:
    """The fold of each example, int `[N]`: two at least, and each has its share of every class."""
    smallest = int(np.unique(targets, return_counts=True)[1].min())
    (order,) = permutations((seed, 0), len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]
    fold = np.empty(len(targets), np.int64)
    fold[by_class] = np.arange(len(targets)) % min(FOLDS, max(2, smallest))
    return fold


def held_out(
    x: Any, targets: Array, classes: int, fold: Array, strengths: Sequence[float] = STRENGTHS
) -> dict[float, tuple[float, float]]:
    """For each strength the accuracy and the negative loss on examples that the fit did not see, over all folds."""
    x = np.asarray(x, np.float32)
    x = np.hstack([standardised(x)[0], np.ones((len(x), 1), np.float32)])
    count = int(fold.max()) + 1
    together = max(1, _LOGITS // (len(x) * count * classes))
    scores: dict[float, tuple[float, float]] = {}
    for i in range(0, len(strengths), together):
        some = strengths[i : i + together]
        logits = x @ _fits(x, targets, classes, fold, some)
        logits = logits.reshape(len(x), classes, len(some), count)[np.arange(len(x)), ..., fold]  # [N, C, strengths]
        likelihood = logits - _logsumexp(logits)
        right = (logits.argmax(1) == targets[:, None]).mean(0)
        loss = -likelihood[np.arange(len(x)), targets].mean(0)
        scores |= {s: (float(a), -float(b)) for s, a, b in zip(some, right, loss, strict=True)}
    return scores


def standardised(x: Array) -> tuple[Array, Array, Array]:
    """Features of mean 0 and deviation 1, and the mean and deviation they had.

    A feature that is the same everywhere has a deviation of 1, so it stays 0.
    """
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
    return ((x - mean) / deviation).astype(x.dtype), mean, deviation


def _fits(x: Array, targets: Array, classes: int, fold: Array, strengths: Sequence[float]) -> Array:
    """The kernels `[D + 1, classes · strengths · folds]` that minimise the sum of all objectives.

    That of a block, a strength and a fold, is scikit-learn's over the examples outside the fold, divided by their
    number and times C.
    """
    from scipy.linalg import solve_triangular
    from scipy.optimize import minimize

    count, size = int(fold.max()) + 1, len(strengths)
    seen = (fold[:, None] != np.arange(count)).astype(np.float32)  # [N, folds]
    share = np.tile(seen / seen.sum(0), size)[:, None]  # [N, 1, blocks]
    here = np.arange(len(x)), targets
    # As in `logistic_regression`: scikit-learn's one column for two classes is penalised half as much as our two are.
    pull = (2 if classes == 2 else 1) / np.repeat(strengths, count) / np.tile(seen.sum(0), size)
    penalty = np.broadcast_to(pull, (x.shape[1], classes, pull.size)).astype(np.float32)
    penalty[-1] = _BIAS
    # In the metric of a Hessian like those of its blocks, one a strength, tens of steps are enough.
    shape = (x.shape[1], classes, size, count)
    factors = _factors(x, targets, classes, penalty.reshape(shape)[..., 0, :, 0])

    def solved(values: Array, transposed: int) -> Array:
        found = np.empty(shape, np.float32)
        for i, factor in enumerate(factors):
            flat = values[:, :, i].reshape(shape[0], -1)
            found[:, :, i] = solve_triangular(factor, flat, trans=transposed, lower=True).reshape(found[:, :, i].shape)
        return found

    def objective(flat: Array) -> tuple[float, Array]:
        point = solved(flat.reshape(shape).astype(np.float32), 1).reshape(penalty.shape)
        logits = (x @ point.reshape(len(point), -1)).reshape(len(x), classes, -1)
        logits -= _logsumexp(logits)
        value = -float((logits[here] * share[:, 0]).sum(dtype=np.float64))
        value += 0.5 * float((penalty * point * point).sum(dtype=np.float64))
        slope = np.exp(logits, out=logits)
        slope[here] -= 1
        slope *= share
        gradient = (x.T @ slope.reshape(len(x), -1)).reshape(point.shape) + penalty * point
        return value, solved(gradient.reshape(shape), 0).ravel().astype(np.float64)

    start = np.zeros(np.prod(shape))
    options = {"maxiter": _ITERATIONS, "ftol": 1e-7, "gtol": 1e-6}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return solved(found.reshape(shape).astype(np.float32), 1).reshape(x.shape[1], -1)


def _factors(x: Array, targets: Array, classes: int, penalty: Array) -> list[Array]:
    """Cholesky factors `[D + 1, D + 1]` of what the Hessians of all classes are about, for `penalty` `[D + 1, S]`."""
    often = np.bincount(targets, minlength=classes) / len(targets)
    shared = (often @ (1 - often)) / (classes - 1) / len(x) * (x.T @ x).astype(np.float64)
    return [np.linalg.cholesky(shared + np.diag(pull)).astype(np.float32) for pull in penalty.T]


def _logsumexp(logits: Array) -> Array:
    """Over axis 1, which stays."""
    top = logits.max(1, keepdims=True)
    return np.asarray(top + np.log(np.exp(logits - top).sum(1, keepdims=True)))
