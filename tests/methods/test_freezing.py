"""Which leaves train under each method, and how fast."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import (
    LinearSolver,
    Plan,
    bitfit,
    discriminative,
    full,
    gradual_unfreezing,
    last_layers,
    parse,
    probe,
)
from tl_jax.model import Model
from tl_jax.rules import map_paths, paths

KEY = jax.random.key(1)
BODY = ("embeddings", "layers_0", "layers_1", "layers_2")


def plan_of(method: Any, toy: Any) -> Plan:
    plan: Plan = method(toy.model, toy.variables, KEY, toy.inputs)
    return plan


def groups(plan: Plan) -> dict[str, set[Any]]:
    """The labels found in each stage; every leaf of a stage has one of them."""
    found: dict[str, set[Any]] = {}
    for path, label in paths(plan.labels).items():
        found.setdefault(path.split("/")[0], set()).add(label)
    return found


def expected(**trained: Group) -> dict[str, set[Any]]:
    return {name: {trained.get(name, FROZEN)} for name in (*BODY, "head")}


HEAD, TOP = Group("head"), Group("top")


@pytest.mark.parametrize(
    ("method", "table", "cut"),
    [
        ("probe", expected(head=HEAD), "head"),
        ("full", expected(**dict.fromkeys(BODY, Group("full")), head=Group("head", lr=10.0)), "embeddings"),
        ("full:head_lr=2", expected(**dict.fromkeys(BODY, Group("full")), head=Group("head", lr=2.0)), "embeddings"),
        ("last_layers:k=0", expected(head=HEAD), "head"),
        ("last_layers:k=1", expected(head=HEAD, layers_2=TOP), "layers_2"),
        ("last_layers:k=2", expected(head=HEAD, layers_2=TOP, layers_1=TOP), "layers_1"),
        ("last_layers:k=3", expected(head=HEAD, layers_2=TOP, layers_1=TOP, layers_0=TOP), "layers_0"),
    ],
)
def test_what_trains_in_bert(mean: Any, method: str, table: dict[str, set[Any]], cut: str) -> None:
    plan = plan_of(parse(method), mean)
    assert groups(plan) == table
    assert plan.cut == cut
    assert plan.solver == (LinearSolver(1.0) if method == "probe" else None)


def test_a_pooler_with_parameters_trains_with_the_layers_but_not_with_the_head_alone(pooled: Any) -> None:
    assert groups(plan_of(probe(), pooled))["pooler"] == {FROZEN}
    assert groups(plan_of(last_layers(k=0), pooled))["pooler"] == {FROZEN}
    assert groups(plan_of(last_layers(k=1), pooled))["pooler"] == {TOP}
    assert groups(plan_of(full(), pooled))["pooler"] == {Group("full")}


def test_a_head_that_came_with_the_checkpoint_trains_like_the_rest(mean: Any) -> None:
    trained = plan_of(full(), mean).variables
    again = full()(mean.model, trained, KEY)
    assert set().union(*groups(again).values()) == {Group("full")}


def test_every_frozen_leaf_of_a_plan_is_the_loaded_one(toy: Any) -> None:
    for method in (probe(), full(), last_layers(k=1), discriminative()):
        plan = plan_of(method, toy)
        made, loaded = paths(plan.variables), paths(toy.variables)
        assert all(made[path] is leaf for path, leaf in loaded.items())
        assert set(made) - set(loaded) == {"head/kernel", "head/bias"}


def test_learning_rates_of_bert_with_a_mean_pooling(mean: Any) -> None:
    plan = plan_of(discriminative(decay=0.5), mean)
    rates = {name: {label.lr for label in labels} for name, labels in groups(plan).items()}
    assert rates == {"head": {1}, "layers_2": {0.5}, "layers_1": {0.25}, "layers_0": {0.125}, "embeddings": {0.0625}}


def test_learning_rates_of_bert_with_a_pooler(pooled: Any) -> None:
    plan = plan_of(discriminative(decay=0.5), pooled)
    rates = {name: {label.lr for label in labels} for name, labels in groups(plan).items()}
    assert rates["head"] == {1} and rates["pooler"] == {0.5} and rates["layers_2"] == {0.25}
    assert rates["embeddings"] == {0.03125}


def test_learning_rates_agree_with_timm_and_electra(mean: Any, pooled: Any) -> None:
    # timm: decay ** (last - id), ids 0 for embeddings, i + 1 for block i, last for the head;
    # ELECTRA: decay ** (layers + 2 - depth), depths 0 for embeddings, i + 1 for layer i, its pooler's place counted.
    for toy, top in ((mean, 4), (pooled, 5)):
        labels = groups(plan_of(discriminative(decay=0.8), toy))
        for depth, name in enumerate(BODY):
            (label,) = labels[name]
            assert label.lr == pytest.approx(0.8 ** (top - depth), rel=1e-12)


def test_layers_that_share_parameters_are_one_level(shared: Any) -> None:
    plan = plan_of(discriminative(decay=0.5), shared)
    rates = {name: {label.lr for label in labels} for name, labels in groups(plan).items()}
    assert rates == {"head": {1}, "layers": {0.5}, "stem": {0.25}}
    assert plan.cut == "stem"


def test_a_lower_stage_never_learns_faster(mean: Any, rng: np.random.Generator) -> None:
    for decay in (1.0, *rng.uniform(0.01, 1, 5)):
        labels = groups(plan_of(discriminative(decay), mean))
        rates = [next(iter(labels[name])).lr for name in (*BODY, "head")]
        assert rates[-1] == 1
        assert rates == sorted(rates)
        assert (len(set(rates)) == 5) == (decay < 1)


def test_one_layer_more_trains_whatever_trained_before(toy: Any) -> None:
    trained = [
        {path for path, label in paths(plan_of(last_layers(k), toy).labels).items() if label is not FROZEN}
        for k in range(4)
    ]
    assert all(fewer < more for fewer, more in pairwise(trained))


def test_blocks_count_as_layers_and_statistics_have_no_label(normed: Any) -> None:
    plan = plan_of(last_layers(k=1), normed)
    assert groups(plan) == {"stem": {FROZEN}, "blocks_0": {FROZEN}, "blocks_1": {TOP}, "head": {HEAD}}
    assert set(plan.labels) == {"params"}
    assert paths(plan.variables["batch_stats"]) == paths(normed.variables["batch_stats"])


def test_adapters_of_an_earlier_method(mean: Any) -> None:
    adapted = parse("lora:rank=2")(mean.model, mean.variables, KEY)
    frozen = (probe(), last_layers(k=1), discriminative(), bitfit(), gradual_unfreezing())
    for method, trains in (*((method, False) for method in frozen), (full(), True)):
        labels = paths(method(adapted.model, adapted.variables, KEY).labels)
        assert {labels[path] is not FROZEN for path in labels if path.startswith("adapters/")} == {trains}


def test_bitfit_trains_biases_and_the_head(toy: Any) -> None:
    labels = paths(plan_of(bitfit(), toy).labels)
    for path, label in labels.items():
        home, leaf = path.split("/")[0], path.split("/")[-1]
        assert label == (HEAD if home == "head" else Group("biases") if leaf == "bias" else FROZEN)
    assert sum(label == Group("biases") for label in labels.values()) > 10


def test_bitfit_without_a_bias_is_refused(mean: Any) -> None:
    bare = map_paths(lambda path, leaf: leaf, mean.variables)
    params = {home: _without_biases(tree) for home, tree in bare["params"].items()}
    with pytest.raises(InputError, match="bias"):
        bitfit()(mean.model, {"params": {**params, "head": {"kernel": np.zeros((12, 3))}}}, KEY)


def _without_biases(tree: Any) -> Any:
    return {k: _without_biases(v) if isinstance(v, dict) else v for k, v in tree.items() if k != "bias"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("last_layers:k=4", "last_layers:k=4: the model has 3 layers, layers_0 to layers_2"),
        ("last_layers:k=-1", "last_layers: k must be 0 or more, not -1"),
        ("discriminative:decay=0", "discriminative: decay must be above 0 and at most 1, not 0.0"),
        ("discriminative:decay=1.5", "discriminative: decay must be above 0 and at most 1, not 1.5"),
        ("probe:C=0", "probe: C must be positive, not 0.0"),
    ],
)
def test_parameters_out_of_range(mean: Any, method: str, message: str) -> None:
    with pytest.raises(InputError) as said:
        plan_of(parse(method), mean)
    assert str(said.value) == message


@pytest.mark.parametrize("method", ["probe", "last_layers:k=0"])
def test_a_model_without_a_head(mean: Any, method: str) -> None:
    body = Model(mean.model.stages[:-1])
    with pytest.raises(InputError, match="has no head to train: attach a task's first"):
        parse(method)(body, mean.variables, KEY)


def test_a_model_without_layers(shared: Any) -> None:
    bare = Model((shared.model.stages[0], shared.model.stages[-1]), inputs=("pooled",))
    with pytest.raises(InputError, match="no stages layers_i or blocks_i"):
        last_layers(k=1)(bare, shared.variables, KEY, shared.inputs)


def test_layers_cannot_be_cut_from_those_they_share_with(shared: Any) -> None:
    with pytest.raises(InputError, match="layers_2 shares its parameters with layers_1, below the cut"):
        plan_of(last_layers(k=1), shared)
    assert plan_of(last_layers(k=3), shared).cut == "layers_0"


def test_a_head_that_is_not_linear_cannot_be_solved(mean: Any) -> None:
    variables = {"params": {**mean.variables["params"], "head": {"dense": {"kernel": np.zeros((12, 3))}}}}
    with pytest.raises(InputError, match="a kernel and a bias; this one has dense/kernel"):
        probe()(mean.model, variables, KEY)
