"""A stage reads and writes keys of the closed table; what follows from the tokens is filled in."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tests.chains import fault
from tests.parity import assert_same_bits
from tl_jax.model import Model
from tl_jax.stage import STATE_KEYS, Stage


def test_what_flows_comes_from_the_closed_table():
    stage = Stage("layers_0", chains.Block(), ("hiden", "noise"), ("hidden",))
    assert fault(Model, (stage,)) == "stage 'layers_0' has the unknown key 'hiden'; did you mean 'hidden'?"
    assert "'input_ids'; it is 'tokens' here" in fault(Model, (replace(stage, reads=("input_ids",)),))
    assert "unknown key 'labels'" in fault(Model, (replace(stage, reads=(), writes=("labels",)),))


def test_a_stage_that_writes_another_number_of_arrays(rng):
    model = chains.plain()
    stages = (replace(model.stages[0], writes=("hidden", "bias")), *model.stages[1:])
    said = fault(Model(stages).apply, chains.variables(model, rng), chains.text(rng))
    assert said == "stage 'embeddings' wrote 1 arrays for hidden, bias"


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("input_ids", "tokens"),
        ("attention_mask", "mask"),
        ("token_type_ids", "token_type"),
        ("position_ids", "positions"),
        ("pixel_values", "image"),
        ("input_features", "audio"),
        ("decoder_input_ids", "decoder_tokens"),
    ],
)
def test_foreign_state_keys_are_answered_with_ours(foreign, ours):
    model = chains.plain()
    said = f"has the unknown key {foreign!r}; it is {ours!r} here"
    assert said in fault(model.apply, {"params": {}}, {foreign: jnp.zeros((1, 2), jnp.int32)})
    assert said in fault(model.init, jax.random.key(0), {foreign: jnp.zeros((1, 2), jnp.int32)})
    assert ours in STATE_KEYS and foreign not in STATE_KEYS


def test_missing_inputs_are_completed(rng):
    model = chains.bert()
    variables, tokens = chains.variables(model, rng), chains.text(rng)["tokens"]
    rows, length = tokens.shape
    said = {
        "tokens": tokens,
        "mask": np.ones((rows, length), bool),
        "token_type": np.zeros((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "segments": np.ones((rows, length), np.int32),
    }
    short, full = model.apply(variables, {"tokens": tokens}), model.apply(variables, said)
    assert_same_bits(short, full)
    assert_same_bits({key: short[key] for key in said}, said)
    assert_same_bits(model.apply(variables, {"tokens": tokens}, start="embeddings"), full)


def test_the_mask_becomes_segments_and_bool(rng):
    model = chains.bert()
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    state = model.apply(variables, inputs | {"mask": inputs["mask"].astype(np.int64)})
    assert state["mask"].dtype == bool
    np.testing.assert_array_equal(state["segments"], inputs["mask"])
    assert_same_bits({"logits": state["logits"]}, {"logits": model.apply(variables, inputs)["logits"]})


def test_tokens_may_be_a_list_but_not_of_floats(rng):
    model = chains.plain()
    variables = chains.variables(model, rng)
    tokens = chains.text(rng)["tokens"]
    assert_same_bits(model.apply(variables, {"tokens": tokens.tolist()}), model.apply(variables, {"tokens": tokens}))
    assert fault(model.apply, variables, {"tokens": [[1.0]]}) == "tokens must be integers, not float32"
