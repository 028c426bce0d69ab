from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.training.convex import logistic_regression


def problem(seed: int, n: int, d: int, classes: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, d] and labels that follow them more closely the larger `signal`; every class occurs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    logits = x @ rng.normal(size=(d, classes)) * signal / np.sqrt(d)
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    y[:classes] = np.arange(classes)
    return x, y


def probabilities(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def scikit(x: np.ndarray, y: np.ndarray, strength: float, weights: Any = None, **options: Any) -> np.ndarray:
    linear_model = pytest.importorskip("sklearn.linear_model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at this tolerance it says that it cannot gain any more
        model = linear_model.LogisticRegression(**{"C": strength, "tol": 1e-10, "max_iter": 100_000} | options)
        return model.fit(x, y, weights).predict_proba(x)


def check(x: np.ndarray, y: np.ndarray, strength: float, weights: Any = None, **options: Any) -> None:
    kernel, bias, convergence = logistic_regression(x, y, y.max() + 1, strength=strength, weights=weights)
    assert kernel.dtype == bias.dtype == np.float64
    difference = np.abs(probabilities(x, kernel, bias) - scikit(x, y, strength, weights, **options)).max()
    print(f"max|Δp| {difference:.1e}, {convergence}")
    assert difference <= 1e-5  # the project promises 1e-4
    assert convergence.gradient <= 1e-7


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_random_problems_equal_scikit_learn(classes: int, strength: float, seed: int) -> None:
    check(*problem(seed, 400, 20, classes, 2.0), strength)


@pytest.mark.parametrize("classes", [2, 4])
def test_separable(classes: int, seed: int) -> None:
    check(*problem(seed, 300, 10, classes, 1000.0), 1.0)
    check(*problem(seed, 300, 10, classes, 1000.0), 1e4)


@pytest.mark.parametrize("strength", [1.0, 1e6])
def test_collinear_and_constant_features(strength: float, seed: int) -> None:
    x, y = problem(seed, 300, 8, 3)
    check(np.hstack([x, x, x[:, :2] - x[:, 2:4], np.full((300, 1), 7.0)]), y, strength)


def test_more_features_than_examples(seed: int) -> None:
    x, y = problem(seed, 60, 200, 3)
    check(x, y, 1.0)
    check(x, y, 1000.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_badly_scaled_features(classes: int, seed: int) -> None:
    """Where scikit-learn's L-BFGS stops short, its Newton solver agrees with ours."""
    x, y = problem(seed, 300, 12, classes)
    scale = 10.0 ** np.linspace(-4, 4, 12)
    check(x * scale + 3 * scale, y, 1.0, solver="newton-cholesky")


def test_77_classes(seed: int) -> None:
    check(*problem(seed, 500, 12, 77, 3.0), 1.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_example_weights_are_repetitions(classes: int, rng: np.random.Generator, seed: int) -> None:
    x, y = problem(seed, 200, 6, classes)
    weights = rng.integers(0, 4, 200)
    weights[:classes] = 1
    check(x, y, 1.0, weights.astype(float))
    weighted = logistic_regression(x, y, classes, weights=weights)
    repeated = logistic_regression(np.repeat(x, weights, 0), np.repeat(y, weights), classes)
    for a, b in zip(weighted[:2], repeated[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def objective(x: np.ndarray, y: np.ndarray, kernel: np.ndarray, bias: np.ndarray, penalty: float) -> float:
    logits = x @ kernel + bias
    most = logits.max(1)
    losses = np.log(np.exp(logits - most[:, None]).sum(1)) + most - logits[np.arange(len(y)), y]
    return losses.sum() + penalty / 2 * (kernel**2).sum()


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 5]), st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=20)
def test_the_result_is_the_minimum_of_the_objective(seed: int, classes: int, strength: float) -> None:
    x, y = problem(seed, 50, 4, classes)
    kernel, bias, convergence = logistic_regression(x, y, classes, strength=strength)
    penalty = (2 if classes == 2 else 1) / strength
    least = objective(x, y, kernel, bias, penalty)
    assert convergence.objective == pytest.approx(least, rel=1e-9)
    residual = probabilities(x, kernel, bias) - np.eye(classes)[y]
    np.testing.assert_allclose(x.T @ residual + penalty * kernel, 0, atol=1e-5)
    np.testing.assert_allclose(residual.sum(0), 0, atol=1e-5)
    np.testing.assert_allclose([kernel.sum(1).max(), bias.sum()], 0, atol=1e-8)
    rng = np.random.default_rng(seed)
    for size in (1e-2, 1.0):
        moved = kernel + size * rng.normal(size=kernel.shape), bias + size * rng.normal(size=bias.shape)
        assert objective(x, y, *moved, penalty) > least


def test_two_classes_halve_the_column_that_scikit_learn_fits(seed: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem(seed, 200, 5, 2)
    theirs = linear_model.LogisticRegression(C=0.7, tol=1e-10, max_iter=100_000).fit(x, y)
    kernel, bias, _ = logistic_regression(x, y, 2, strength=0.7)
    np.testing.assert_allclose(kernel, np.array([[-0.5], [0.5]] * theirs.coef_).T, atol=1e-5)
    np.testing.assert_allclose(bias, np.array([-0.5, 0.5]) * theirs.intercept_, atol=1e-5)


def test_the_same_bits_again(seed: int) -> None:
    x, y = problem(seed, 200, 6, 3)
    first, second = (logistic_regression(x.astype(np.float32), y, 3) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes() and first[2] == second[2]


def test_features_that_say_nothing_leave_the_frequencies(seed: int) -> None:
    y = np.array([0] * 5 + [1] * 3 + [2] * 2)
    kernel, bias, convergence = logistic_regression(np.ones((10, 4)), y, 3)
    np.testing.assert_allclose(probabilities(np.ones((1, 4)), kernel, bias), [[0.5, 0.3, 0.2]], atol=1e-12)
    assert convergence.iterations == 0


X, Y = problem(0, 30, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.where(np.arange(30)[:, None] == 7, np.nan, X)}, "features of 1 examples are not finite .* 7$"),
        ({"features": X * 1e200}, "features of 30 examples are not finite or beyond 1e100"),
        ({"features": X[:10]}, r"features must be \[N, D\], labels and weights \[N\], not \[10, 4\], \[30\], \[30\]"),
        ({"weights": np.ones(3)}, r"\[30\], \[3\]"),
        ({"weights": -np.ones(30)}, "weights must be finite and ≥ 0"),
        ({"labels": Y * 1.0}, "labels must be integers from 0 to 2"),
        ({"classes": 2}, "labels must be integers from 0 to 1"),
        ({"classes": 4}, "examples of two classes or more; class 3 has no example"),
        ({"labels": Y * 0, "classes": 1}, "there is one class only"),
        ({"strength": 0.0}, "strength C must be positive, not 0.0"),
        ({"tolerance": 1e-30}, "did not converge: after 200 iterations the relative gradient is .* a smaller C helps"),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        logistic_regression(**{"features": X, "labels": Y, "classes": 3} | arguments)
