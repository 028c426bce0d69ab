from __future__ import annotations

import math

import numpy as np
import pytest

from tl_jax.metrics import Language


def batch(rng, rows=3, length=4):
    targets = rng.integers(-1, 5, (rows, length))
    losses = rng.uniform(0, 3, (rows, length)).astype(np.float32)
    return {"losses": losses, "hits": rng.integers(0, 2, (rows, length)) > 0}, {"targets": targets}


def test_perplexity_is_that_of_all_tokens_however_they_are_cut(rng):
    outputs, given = batch(rng, rows=6)
    asked = given["targets"] >= 0
    whole = Language().update(outputs, given).result()
    assert whole["perplexity"] == pytest.approx(np.exp(outputs["losses"][asked].astype(np.float64).mean()), rel=1e-12)
    assert whole["token_accuracy"] == outputs["hits"][asked].mean() and whole["tokens"] == asked.sum()
    parts = Language()
    for at in (slice(4, 6), slice(0, 4)):
        one = ({k: v[at] for k, v in outputs.items()}, {k: v[at] for k, v in given.items()})
        parts = parts.merge(parts.update(*one))
    assert parts.result() == pytest.approx(whole, rel=1e-12)


def test_nothing_to_predict_is_an_error_and_a_hopeless_model_infinite():
    with pytest.raises(ValueError, match="no token was predicted"):
        Language().result()
    assert Language(loss=1e4, hits=0, tokens=1).result()["perplexity"] == math.inf
