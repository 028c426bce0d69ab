from __future__ import annotations

from typing import Any

import jax
import pytest

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import gradual_unfreezing
from tl_jax.model import Model
from tl_jax.rules import paths

KEY = jax.random.key(1)


def thaws(method: Any, toy: Any) -> dict[str, int]:
    plan = method(toy.model, toy.variables, KEY, toy.inputs)
    assert plan.stepped and plan.solver is None
    return {path.split("/")[0]: label.thaw for path, label in paths(plan.labels).items()}


def test_from_the_head_down_the_smaller_groups_on_top(mean: Any, pooled: Any) -> None:
    below = {"layers_2": 1, "layers_1": 2, "layers_0": 3, "embeddings": 3}
    assert thaws(gradual_unfreezing(), mean) == {"head": 0, **below}
    assert thaws(gradual_unfreezing(phases=2), mean) == {"head": 0, **dict.fromkeys(below, 1)}
    one_each = {"head": 0, "layers_2": 1, "layers_1": 2, "layers_0": 3, "embeddings": 4}
    assert thaws(gradual_unfreezing(phases=5), mean) == thaws(gradual_unfreezing(phases=99), mean) == one_each
    assert thaws(gradual_unfreezing(phases=3), pooled) == {
        "head": 0, "pooler": 1, "layers_2": 1, "layers_1": 2, "layers_0": 2, "embeddings": 2,
    }  # fmt: skip


def test_layers_that_share_parameters_thaw_together(shared: Any) -> None:
    assert thaws(gradual_unfreezing(), shared) == {"head": 0, "layers": 1, "stem": 2}


def test_rates_fall_from_stage_to_stage(mean: Any) -> None:
    plan = gradual_unfreezing(decay=0.5)(mean.model, mean.variables, KEY)
    labels = paths(plan.labels)
    assert labels["head/kernel"] == Group("phase_0")
    assert labels["layers_1/mlp/up/kernel"] == Group("phase_2", lr=0.25, thaw=2)
    assert labels["embeddings/token/embedding"] == Group("phase_3", lr=0.0625, thaw=3)


def test_adapters_of_another_method_stay(mean: Any) -> None:
    leaves = {"lora": {"layers_0": {"attention": {"query": {"a": jax.numpy.ones((2, 2))}}}}}
    plan = gradual_unfreezing()(mean.model, {**mean.variables, "adapters": leaves}, KEY)
    assert paths(plan.labels)["adapters/lora/layers_0/attention/query/a"] is FROZEN


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phases": 1}, "phases must be 2 or more, not 1"),
        ({"decay": 0.0}, "decay must be above 0 and at most 1, not 0.0"),
        ({"decay": 1.5}, "decay must be above 0 and at most 1, not 1.5"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradual_unfreezing(**settings)


def test_a_model_without_a_head_is_refused(mean: Any) -> None:
    body = Model(mean.model.stages[:-1])
    with pytest.raises(InputError, match="no head to train"):
        gradual_unfreezing()(body, mean.variables, KEY)
