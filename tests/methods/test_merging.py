"""Folding adapters into the base, and refusing where that would change what the model computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest

from tl_jax.errors import InputError
from tl_jax.methods import NotMergeable, lora, merge
from tl_jax.rules import paths

KEY = jax.random.key(3)


@dataclass(frozen=True)
class Square:
    """A hook that is not linear in the weights."""

    name: str = "square"

    def intercept(self, site: str, leaves: Any, call: Any, *args: Any) -> Any:
        return call(*args) + leaves["g"] * call(*args) ** 2


def test_what_is_left_is_a_plain_model(mean: Any) -> None:
    plan = lora(rank=2)(mean.model, mean.variables, KEY)
    model, variables = merge(plan.model, plan.variables)
    assert model == mean.model
    assert model.info is plan.model.info
    assert set(variables) == {"params"}
    assert {p: x.shape for p, x in paths(variables).items()} == {
        p: x.shape for p, x in paths({"params": plan.variables["params"]}).items()
    }


def test_a_model_without_hooks_is_returned_as_it_is(mean: Any) -> None:
    assert merge(mean.model, mean.variables) == (mean.model, mean.variables)


def test_other_collections_stay(normed: Any) -> None:
    plan = lora(rank=2, targets="dense")(normed.model, normed.variables, KEY, normed.inputs)
    _, variables = merge(plan.model, plan.variables)
    assert set(variables) == {"params", "batch_stats"}


def test_a_hook_that_cannot_merge(mean: Any) -> None:
    model = replace(mean.model, hooks=(Square(),))
    with pytest.raises(NotMergeable, match="square is not linear in the weights"):
        merge(model, {**mean.variables, "adapters": {"square": {"layers_0": {"mlp": {"g": np.ones(12)}}}}})
    assert issubclass(NotMergeable, InputError)


def test_a_kernel_that_another_stage_reads(tied: Any) -> None:
    plan = lora(rank=2, targets="blocks_0")(tied.model, tied.variables, KEY, tied.inputs)
    with pytest.raises(NotMergeable, match="blocks_0/dense/kernel is tied: merging lora into it would change blocks_1"):
        merge(plan.model, plan.variables)


def test_a_kernel_of_its_own_beside_a_tied_one(tied: Any) -> None:
    plan = lora(rank=2, targets="stem")(tied.model, tied.variables, KEY, tied.inputs)
    model, _ = merge(plan.model, plan.variables)
    assert model.hooks == ()


def test_a_kernel_that_is_not_there(mean: Any) -> None:
    plan = lora(rank=2, targets="layers_0/mlp/up")(mean.model, mean.variables, KEY)
    params = plan.variables["params"]
    params = {**params, "layers_0": {**params["layers_0"], "mlp": {"up": {"bias": np.zeros(20)}}}}
    with pytest.raises(NotMergeable, match="layers_0/mlp/up has no kernel of its own"):
        merge(plan.model, {**plan.variables, "params": params})
