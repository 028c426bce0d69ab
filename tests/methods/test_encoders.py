"""The methods' own words on every family of encoders: queries and values, layers, levels, and a linear head."""

from __future__ import annotations

import jax
import numpy as np

from tests import chains
from tests.parity import assert_close
from tl_jax.groups import FROZEN
from tl_jax.methods import discriminative, last_layers, lora, lp_ft, merge, probe
from tl_jax.rules import map_paths, paths

every = chains.over(chains.bert, chains.roberta, chains.distilbert)


def plan_of(method, chain, rng):
    model = chain("pooler")
    return method(model, chains.variables(model, rng), jax.random.key(0))


def trained(plan) -> set[str]:
    """The modules with a leaf that trains."""
    return {path.rpartition("/")[0] for path, label in paths(plan.labels["params"]).items() if label is not FROZEN}


@every
def test_lora_goes_to_queries_and_values(chain, rng):
    plan = plan_of(lora(rank=2), chain, rng)
    sites = {path.rpartition("/")[0] for path in paths(plan.variables["adapters"]["lora"])}
    assert sites == {f"layers_{i}/attention/{name}" for i in (0, 1) for name in ("query", "value")}
    assert trained(plan) == {"head"}
    moved = {**plan.variables, "adapters": map_paths(lambda _, leaf: leaf + 0.1, plan.variables["adapters"])}
    inputs = chains.text(rng)
    factored = plan.model.apply(moved, inputs)["logits"]
    merged, folded = merge(plan.model, moved)
    assert_close({"logits": merged.apply(folded, inputs)["logits"]}, {"logits": factored})
    assert np.abs(factored - plan.model.apply(plan.variables, inputs)["logits"]).max() > 1e-3


@every
def test_the_last_layer_and_what_lies_above_it(chain, rng):
    plan = plan_of(last_layers(k=1), chain, rng)
    assert plan.cut == "layers_1"
    assert {module.partition("/")[0] for module in trained(plan)} == {"layers_1", "pooler", "head"}


@every
def test_each_stage_is_a_level(chain, rng):
    labels = paths(plan_of(discriminative(decay=0.5), chain, rng).labels["params"])
    rates = {path.partition("/")[0]: label.lr for path, label in labels.items()}
    assert rates == {"head": 1, "pooler": 0.5, "layers_1": 0.25, "layers_0": 0.125, "embeddings": 0.0625}


@every
def test_the_head_is_linear(chain, rng):
    """A kernel and a bias, to be solved; the dense layer below it is the pooler's."""
    assert trained(plan_of(probe(), chain, rng)) == {"head"}
    assert plan_of(lp_ft(), chain, rng).solver is not None
