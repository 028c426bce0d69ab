from __future__ import annotations

from typing import Any

import jax
import pytest

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN
from tl_jax.methods import LinearSolver, lp_ft, probe
from tl_jax.model import Model
from tl_jax.models.conv_layers import BatchNorm
from tl_jax.models.layers import Module, compact
from tl_jax.rules import paths
from tl_jax.stage import Stage

KEY = jax.random.key(1)


def test_probe_solves_and_stops_while_lp_ft_goes_on_with_everything(toy: Any) -> None:
    only = probe(C=3)(toy.model, toy.variables, KEY, toy.inputs)
    assert only.solver == LinearSolver(3.0) and not only.stepped and only.cut == "head"
    both = lp_ft(C=3)(toy.model, toy.variables, KEY, toy.inputs)
    assert both.solver == LinearSolver(3.0) and both.stepped and both.cut == toy.model.names[0]
    assert all(label is not FROZEN for label in paths(both.labels).values())
    assert all(paths(both.variables)[path] is leaf for path, leaf in paths(toy.variables).items())


class Normed(Module):
    """A head that is not linear."""

    @compact
    def __call__(self, pooled: jax.Array, train: bool) -> jax.Array:
        return BatchNorm(name="norm")(pooled, train)


@pytest.mark.parametrize("method", [probe(), lp_ft()])
def test_a_head_that_is_not_linear_is_refused(method: Any, mean: Any) -> None:
    head = Stage("head", Normed(), ("pooled",), ("logits",))
    model = Model((*mean.model.stages[:-1], head))
    with pytest.raises(
        InputError, match=f"{method.name} solves a linear head, a kernel and a bias; this one has norm/bias"
    ):
        method(model, mean.variables, KEY, mean.inputs)


@pytest.mark.parametrize("method", [probe, lp_ft])
def test_the_strength_is_positive(method: Any) -> None:
    with pytest.raises(InputError, match=f"{method.name}: C must be positive, not 0"):
        method(C=0)
