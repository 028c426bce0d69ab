"""A plan is data that cannot lie: it is not made unless its rules decide every leaf and something trains."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import LinearSolver, Plan, full
from tl_jax.methods.plan import cut_of, fill
from tl_jax.rules import paths

KEY = jax.random.key(2)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((".*", FROZEN),), "nothing trains: the rules freeze every leaf"),
        ((("head/.*", Group("head")),), "no rule decides 53 of 55 leaves"),
        ((("encoder.layer.2", Group("top")), (".*", FROZEN)), "encoder.layer.2 is layers_2 here"),
        (((".*", Group("all")), ("head/.*", Group("head"))), "shadowed"),
        (((".*", 0.1),), "0.1; it must be a Group or FROZEN"),
    ],
)
def test_rules_that_will_not_do(mean: Any, rules: Any, message: str) -> None:
    with pytest.raises(InputError) as said:
        Plan(mean.model, fill(mean.model, mean.variables, KEY), rules, full())
    assert message in str(said.value)


def test_a_plan_of_ones_own_rules(mean: Any) -> None:
    rules = (("layers_1/mlp/.*", Group("mlp", lr=3)), ("head/.*", Group("head")), (".*", FROZEN))
    plan = Plan(mean.model, fill(mean.model, mean.variables, KEY), rules, full())
    assert plan.cut == "layers_1"
    trained = {path for path, label in paths(plan.labels).items() if label is not FROZEN}
    assert {path.rpartition("/")[0] for path in trained} == {"layers_1/mlp/up", "layers_1/mlp/down", "head"}


def test_the_cut_counts_shared_and_borrowed_leaves(shared: Any, tied: Any) -> None:
    assert cut_of(shared.model, {"params": {"layers": {"dense": {"bias": Group("g")}}}}) == "layers_0"
    assert cut_of(shared.model, {"adapters": {"lora": {"layers": {"dense": {"a": Group("g")}}}}}) == "layers_0"
    assert cut_of(tied.model, {"params": {"blocks_0": {"dense": {"kernel": Group("g"), "bias": FROZEN}}}}) == "blocks_0"
    assert cut_of(tied.model, {"params": {"blocks_1": {"dense": {"bias": Group("g")}}}}) == "blocks_1"


def test_fill_makes_the_head_and_touches_nothing_else(toy: Any) -> None:
    filled = fill(toy.model, toy.variables, KEY)
    loaded, made = paths(toy.variables), paths(filled)
    assert all(made[path] is leaf for path, leaf in loaded.items())
    assert {path: leaf.shape for path, leaf in made.items() if path not in loaded} == {
        "head/kernel": (12, 3),
        "head/bias": (3,),
    }
    assert np.std(made["head/kernel"]) > 0
    assert paths(fill(toy.model, filled, jax.random.key(9)))["head/kernel"] is made["head/kernel"]


def test_fill_brings_statistics_with_a_new_stage(normed: Any) -> None:
    """A block that was not loaded gets its statistics too; those that were loaded stay."""
    variables = {
        collection: {home: tree for home, tree in trees.items() if home != "blocks_1"}
        for collection, trees in normed.variables.items()
    }
    variables["batch_stats"]["blocks_0"]["norm"]["mean"] = loaded = np.ones(6, np.float32)
    filled = fill(normed.model, variables, KEY, normed.inputs)
    assert filled["batch_stats"]["blocks_0"]["norm"]["mean"] is loaded
    assert set(filled["batch_stats"]["blocks_1"]["norm"]) == {"mean", "var"}
    assert set(filled["params"]) == {"stem", "blocks_0", "blocks_1", "head"}


def test_the_same_key_gives_the_same_head_under_every_method(mean: Any) -> None:
    from tl_jax.methods import discriminative, lora, probe

    heads = [
        paths(method(mean.model, mean.variables, KEY).variables)["head/kernel"]
        for method in (full(), probe(), discriminative(), lora())
    ]
    assert all(np.array_equal(head, heads[0]) for head in heads)


def test_a_plan_prints(mean: Any) -> None:
    text = str(full()(mean.model, mean.variables, KEY))
    total = sum(leaf.size for leaf in paths(mean.variables).values()) + 12 * 3 + 3
    assert text.startswith(f"full:head_lr=10: {total:,} of {total:,} parameters train, from embeddings up")
    assert "array" not in repr(full()(mean.model, mean.variables, KEY)).lower()


@pytest.mark.parametrize(
    ("rules", "solver", "message"),
    [
        ([(".*", Group("late", thaw=1))], None, "nothing trains in the first phase: some group needs thaw=0"),
        ([("head/.*", Group("head")), (".*", Group("odd", thaw=-1))], None, "thaws in phase -1; phases are 0, 1, 2"),
        ([("head/.*", Group("head", thaw=0.5)), (".*", FROZEN)], None, "thaws in phase 0.5"),  # type: ignore[arg-type]
        ([("head/.*", FROZEN), (".*", Group("rest"))], LinearSolver(), "head/kernel must train from phase 0 on"),
        ([("head/.*", Group("a", thaw=1)), (".*", Group("b"))], LinearSolver(), "must train from phase 0 on"),
    ],
)
def test_phases_that_cannot_be(mean: Any, rules: Any, solver: Any, message: str) -> None:
    variables = full()(mean.model, mean.variables, jax.random.key(0)).variables
    with pytest.raises(InputError, match=message):
        Plan(mean.model, variables, tuple(rules), full(), solver)
