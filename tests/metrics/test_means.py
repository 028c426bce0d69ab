from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.metrics import Mean


def error_of(outputs, batch):
    return np.abs(outputs["value"] - batch["targets"]) * batch["weights"], batch["weights"]


@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.booleans()), min_size=1, max_size=40), st.integers(0, 40))
def test_any_cut_gives_the_mean_of_the_real_rows(rows, cut):
    values = np.array([v if real else np.nan for v, real in rows], np.float32)
    weights = np.array([real for _, real in rows], np.float32)
    mean = total = Mean("error", error_of)
    for part in (slice(cut), slice(cut, None)):
        batch = {"targets": np.zeros(len(values[part]), np.float32), "weights": weights[part]}
        total = total.merge(mean.update({"value": values[part]}, batch))
    found = total.result()["error"]
    if weights.any():
        assert found == pytest.approx(np.abs(values[weights > 0].astype(np.float64)).mean(), abs=1e-12)
    else:
        assert math.isnan(found)


def test_sums_are_float64():
    ones = {"targets": np.zeros(1, np.float32), "weights": np.ones(1, np.float32)}
    total = Mean("error", error_of, total=2.0**24, weight=2.0**24)  # where float32 stops counting
    for _ in range(3):
        total = total.merge(total.update({"value": np.ones(1, np.float32)}, ones))
    assert (total.total, total.weight) == (2**24 + 3, 2**24 + 3)


def test_what_is_not_by_row_is_left_alone():
    mean = Mean("loss", lambda outputs, batch: outputs["loss"])
    batch = {"weights": np.array([1.0, 0.0])}
    assert mean.update({"loss": (3.0, 2.0)}, batch).result() == {"loss": 1.5}


@pytest.mark.parametrize("value", [1.0, (1, 2, 3), ("a", 1), None])
def test_a_function_that_returns_something_else(value):
    with pytest.raises(InputError, match=r"the metric 'x' must return \(sum, weight\)"):
        Mean("x", lambda outputs, batch: value).update({}, {"weights": np.ones(1)})
