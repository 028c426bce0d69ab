"""Cross-validated probes are those of scikit-learn, fold by fold and strength by strength."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tl_jax.training import choosing
from tl_jax.training.choosing import choose, folds, held_out, standardised

STRENGTHS = (0.003, 0.1, 1.0)


def drawn(rng: np.random.Generator, classes: int, noise: float = 3.0) -> tuple[Any, Any]:
    """600 examples of 20 features, of which some are large and one is the same everywhere."""
    scale = np.geomspace(1, 100, 20)
    x = rng.normal(size=(600, 20))
    y = (x @ rng.normal(size=(20, classes)) + noise * rng.normal(size=(600, classes))).argmax(1)
    x *= scale
    x[:, 3] = 7.5
    return x.astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("at_once", [10**9, 1])
def test_it_is_scikit_learn_s(
    classes: int, at_once: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all strengths are fitted together or one after the other."""
    monkeypatch.setattr(choosing, "_LOGITS", at_once)
    x, y = drawn(rng, classes)
    fold = folds(y, seed=1)
    found = held_out(x, y, classes, fold, STRENGTHS)
    scaled = standardised(x.astype(np.float64))[0]
    for strength in STRENGTHS:
        right, loss = 0, 0.0
        for i in range(fold.max() + 1):
            seen = fold != i
            reference = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(scaled[seen], y[seen])
            p = reference.predict_proba(scaled[~seen])
            right += int((p.argmax(1) == y[~seen]).sum())
            loss -= float(np.log(p[np.arange(len(p)), y[~seen]]).sum())
        accuracy, negative = found[strength]
        assert abs(accuracy - right / len(y)) <= 2.5 / len(y)  # ties at the boundary
        assert -negative == pytest.approx(loss / len(y), rel=2e-3)


def test_the_cut_that_knows_more_is_chosen(rng: np.random.Generator) -> None:
    x, y = drawn(rng, 3, noise=1.0)
    noise = rng.normal(size=x.shape)
    choice = choose({"layers_1": noise, "layers_2": x, "pooler": x + 30 * noise}, y, 3, seed=0)
    assert choice.cut == "layers_2" and choice.strength in choosing.STRENGTHS
    assert choice.accuracy["layers_2"] > choice.accuracy["pooler"] > choice.accuracy["layers_1"]
    assert choose({"layers_1": noise, "layers_2": x, "pooler": x + 30 * noise}, y, 3, seed=0) == choice


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 100))
def test_folds_hold_their_share_of_every_class(targets: list[int], seed: int) -> None:
    y = np.array(targets)
    fold = folds(y, seed)
    count = fold.max() + 1
    assert 2 <= count <= choosing.FOLDS
    for label in set(targets):
        held = np.bincount(fold[y == label], minlength=count)
        assert held.max() - held.min() <= 1
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 1


def test_a_class_of_one_example_stops_nothing(rng: np.random.Generator) -> None:
    x, y = drawn(rng, 3)
    y[y == 2] = 1
    y[0] = 2
    found = held_out(x, y, 3, folds(y, seed=0), STRENGTHS)
    assert all(np.isfinite(score).all() and score[0] > 0.4 for score in found.values())


def test_standardised_features() -> None:
    x = np.array([[1.0, 5.0, 1e6], [3.0, 5.0, 1e6 + 1]])
    scaled, mean, deviation = standardised(x)
    np.testing.assert_allclose(mean, [2, 5, 1e6 + 0.5])
    np.testing.assert_allclose(deviation, [1, 1, 1])
    np.testing.assert_allclose(scaled[:, :2], [[-1, 0], [1, 0]])
