"""The linear head as a convex problem, solved to convergence: multinomial logistic regression in float64.

Minimises, over kernel W [D, C] and bias b [C],

    sum_i weight_i · cross_entropy(features_i @ W + b, label_i)  +  |W|² / (2 · strength)

which is scikit-learn's `LogisticRegression(C=strength)`; the bias is not penalised. Newton's method with exact
Hessian-vector products and a conjugate-gradient inner loop. What keeps the inner loop short on collinear and badly
scaled features is its preconditioner: the Cholesky factor of the Hessian that all classes would have in common if each
had the average curvature. It shapes the path only; the objective is the one above, on the features as given. For two
classes it is the Hessian itself, and the inner loop one step.

On 2 cores, 6,920 × 384 features take about a second for 2 classes (9 iterations); 77 classes cost about as much as
scikit-learn's L-BFGS. Where features differ in scale by 1e8, L-BFGS stops far from the minimum and this does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from tl_jax.errors import InputError

_ITERATIONS = 200


@dataclass(frozen=True)
class Convergence:
    """How a solve ended: Newton iterations, Hessian-vector products, the objective at the solution, and its gradient.

    `gradient` is the norm in the metric of the (approximate) inverse Hessian over the root of the objective at a zero
    kernel: half its square is about what is left to gain, as a share of that objective.
    """

    iterations: int
    products: int
    objective: float
    gradient: float


def logistic_regression(
    features: Any,
    labels: Any,
    classes: int,
    *,
    strength: float = 1.0,
    weights: Any = None,
    tolerance: float = 1e-7,
) -> tuple[np.ndarray, np.ndarray, Convergence]:
    """The kernel [D, C] and bias [C] (float64, zero-sum over classes) that minimise the objective, and how it went.

    `features` [N, D] are converted to float64, `labels` are integers [N] below `classes`, `weights` [N] ≥ 0 weigh
    examples (1 without). The result is deterministic on one machine kind.

    Two classes: scikit-learn penalises one column w, whose softmax form is (-w/2, w/2) with |W|² = |w|²/2. To give the
    same probabilities for the same `strength`, the penalty is doubled there, |W|² / strength.

    Raises `InputError` for features that are not finite, shapes or labels that do not fit, a class without examples
    (its bias would go to -∞), and where the gradient does not come down to `tolerance`.
    """
    x, y, s = _checked(features, labels, classes, weights, strength)
    problem = _Problem(x, np.eye(classes)[y], s, (2 if classes == 2 else 1) / strength)
    kernel, bias, convergence = problem.solve(tolerance)
    return kernel, bias - bias.mean(), convergence


def _checked(
    features: Any, labels: Any, classes: int, weights: Any, strength: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = np.asarray(features, np.float64), np.asarray(labels)
    s = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or s.shape != y.shape:
        raise InputError(
            f"features must be [N, D], labels and weights [N], not {list(x.shape)}, {list(y.shape)}, {list(s.shape)}"
        )
    bad = np.flatnonzero(~(np.abs(x) < 1e100).all(1))  # NaN compares false
    if len(bad):
        raise InputError(f"features of {len(bad)} examples are not finite or beyond 1e100, first of example {bad[0]}")
    if not (np.isfinite(s).all() and (s >= 0).all()):
        raise InputError("example weights must be finite and ≥ 0")
    if not strength > 0:
        raise InputError(f"the strength C must be positive, not {strength}")
    if not np.issubdtype(y.dtype, np.integer) or (len(y) and not (y.min() >= 0 and y.max() < classes)):
        raise InputError(f"labels must be integers from 0 to {classes - 1}")
    empty = np.flatnonzero(np.bincount(y, s, classes) == 0)
    if classes < 2 or len(empty):
        what = f"class {empty[0]} has no example" if len(empty) else "there is one class only"
        raise InputError(f"a classifier needs examples of two classes or more; {what}")
    return x, y, s


class _Problem:
    """The objective as a function of [kernel; bias], [D+1, C], over features with a column of ones.

    Features are centred, which the free bias undoes: sums of squares then lose no digits to a large mean.
    """

    def __init__(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float) -> None:
        self.mean = weights @ x / weights.sum()
        self.x = np.hstack([x - self.mean, np.ones((len(x), 1))])
        self.targets, self.weights = targets, weights[:, None]
        self.penalty = np.full((self.x.shape[1], 1), penalty)
        self.penalty[-1] = 0

    def solve(self, tolerance: float) -> tuple[np.ndarray, np.ndarray, Convergence]:
        point = np.zeros((self.x.shape[1], self.targets.shape[1]))
        # With a zero kernel the best bias is the classes' log-frequencies.
        point[-1] = np.log((self.weights * self.targets).sum(0) / self.weights.sum())
        value, p = self.value(point)
        scale, products, iteration = np.sqrt(value), 0, 0
        while True:
            gradient = self.gradient(point, p)
            factor = self.preconditioner(p)
            relative = np.sqrt((gradient * scipy.linalg.cho_solve(factor, gradient)).sum()) / scale
            if relative <= tolerance or iteration == _ITERATIONS:
                break
            # Solve for the step only as well as the gradient is small (Dembo & Steihaug 1983).
            step, used = self.newton_step(gradient, p, factor, min(0.5, np.sqrt(relative)) * relative * scale)
            slope = (gradient * step).sum()
            length = 1.0
            while True:
                ahead, p = self.value(point + length * step)
                # The last steps gain less than the objective's rounding: they are not refused for it.
                if ahead <= value + 1e-4 * length * slope + 1e-13 * abs(value) or length < 1e-10:
                    break
                length /= 2
            point, value = point + length * step, ahead
            iteration, products = iteration + 1, products + used
        if not relative <= tolerance:
            raise InputError(
                f"logistic regression did not converge: after {iteration} iterations the relative gradient is "
                f"{relative:.1e}, not {tolerance:.0e}; a smaller C helps"
            )
        kernel, bias = point[:-1], point[-1] - self.mean @ point[:-1]
        return kernel, bias, Convergence(iteration, products, value, float(relative))

    def value(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective, and the probabilities [N, C]."""
        logits = self.x @ point
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(1, keepdims=True)
        p /= total
        losses = np.log(total[:, 0]) - (logits * self.targets).sum(1)
        return float(self.weights[:, 0] @ losses + 0.5 * (self.penalty * point**2).sum()), p

    def gradient(self, point: np.ndarray, p: np.ndarray) -> np.ndarray:
        return self.x.T @ (self.weights * (p - self.targets)) + self.penalty * point

    def curvature(self, direction: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Hessian times `direction`, exactly."""
        moved = p * (self.x @ direction)
        moved -= p * moved.sum(1, keepdims=True)
        return self.x.T @ (self.weights * moved) + self.penalty * direction

    def preconditioner(self, p: np.ndarray) -> Any:
        """A Cholesky factor [D+1, D+1] of the Hessian that all classes would share at their average curvature."""
        average = self.weights * (p * (1 - p)).sum(1, keepdims=True) / (p.shape[1] - 1)
        shared = (self.x * average).T @ self.x
        diagonal = np.diag_indices_from(shared)
        # Relative to each entry, so that no feature's scale matters; collinear features need it to stay positive.
        shared[diagonal] = shared[diagonal] * (1 + 1e-10) + self.penalty[:, 0]
        shared[-1, -1] += 1e-12 * self.weights.sum()
        return scipy.linalg.cho_factor(shared)

    def newton_step(self, gradient: np.ndarray, p: np.ndarray, factor: Any, accuracy: float) -> tuple[np.ndarray, int]:
        """Conjugate gradients on `Hessian @ step = -gradient`, until the residual's norm is below `accuracy`."""
        step = np.zeros_like(gradient)
        residual = -gradient
        direction = z = scipy.linalg.cho_solve(factor, residual)
        rz = (residual * z).sum()
        used = 0
        while np.sqrt(rz) > accuracy and used < 10 * gradient.size:
            used += 1
            curved = self.curvature(direction, p)
            size = rz / (direction * curved).sum()
            step = step + size * direction
            residual = residual - size * curved
            z = scipy.linalg.cho_solve(factor, residual)
            rz, before = (residual * z).sum(), rz
            direction = z + rz / before * direction
        return step, used
