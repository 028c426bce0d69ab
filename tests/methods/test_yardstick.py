from __future__ import annotations

from typing import Any

import jax
import numpy as np

from tl_jax.groups import FROZEN
from tl_jax.methods import scratch
from tl_jax.rules import paths


def test_nothing_of_the_pretrained_values_is_left(toy: Any) -> None:
    plan = scratch()(toy.model, toy.variables, jax.random.key(1), toy.inputs)
    made, loaded = paths(plan.variables), paths(toy.variables)
    for path, leaf in loaded.items():
        same = np.array_equal(made[path], leaf)
        constant = np.ptp(np.asarray(leaf, np.float32)) == 0  # biases and scales begin as the reference has them
        assert made[path].shape == leaf.shape and same == constant, path
    assert set(made) - set(loaded) == {"head/kernel", "head/bias"}
    assert all(label is not FROZEN for label in paths(plan.labels).values())


def test_values_follow_the_key(mean: Any) -> None:
    one, same, other = (scratch()(mean.model, mean.variables, jax.random.key(n)).variables for n in (1, 1, 2))
    path = "layers_0/mlp/up/kernel"
    assert np.array_equal(paths(one)[path], paths(same)[path])
    assert not np.array_equal(paths(one)[path], paths(other)[path])
