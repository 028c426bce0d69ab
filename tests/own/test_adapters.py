"""Adapters in somebody's own network; where they would be dropped, that is said."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tl_jax as tl
from tests.chains import Shift, fault
from tests.own.networks import LABELS, VOCABULARY, WIDTH, Encoder, decided, encoder, headed, linear, moved, steps, table
from tests.parity import assert_close, assert_same_bits
from tests.training.toy import batch as text_batch
from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import lora
from tl_jax.model import Model


def test_lora_on_a_linen_module(rng, inputs):
    model = headed(encoder())
    plan = lora(rank=2, targets="query")(model, model.init(jax.random.key(0)), jax.random.key(1))
    assert plan.cut == "network"
    before = model.apply(plan.variables | {"adapters": {}}, inputs)["logits"]
    assert_same_bits({"": plan.model.apply(plan.variables, inputs)["logits"]}, {"": before})
    after = steps(plan.model, plan.variables, plan.labels, text_batch(encoder(), rng), count=20)
    leaves = {"adapters/lora/query/a", "adapters/lora/query/b", "head/kernel", "head/bias"}
    assert moved(plan.variables, after) == leaves
    merged, folded = tl.merge(plan.model, after)
    assert_close({"": merged.apply(folded, inputs)["logits"]}, {"": plan.model.apply(after, inputs)["logits"]}, 1e-5)
    # a cut between the network and the head reads what belongs below it, and no more
    assert "pooled" in plan.model.apply(after, inputs, stop="head")


@dataclass(frozen=True)
class Sum:
    """Override: adds a leaf to the parameter of its path."""

    name: str = "sum"

    def override(self, params: Any, leaves: Any) -> Any:
        return {
            name: value
            if name not in leaves
            else self.override(value, leaves[name])
            if isinstance(value, dict)
            else value + leaves[name]
            for name, value in params.items()
        }


def test_an_override_acts_on_a_function(rng, inputs):
    variables = table(rng)
    model = replace(Model.from_function(linear, variables), hooks=(Sum(),))
    adapted = {**variables, "adapters": {"sum": {"out": {"bias": np.zeros(LABELS, np.float32)}}}}
    labels = decided([("adapters/.*", Group("sum")), (".*", FROZEN)], adapted)
    after = steps(model, adapted, labels, text_batch(model, rng))
    assert moved(adapted, after) == {"adapters/sum/out/bias"}
    out = variables["params"]["out"]
    params = {**variables["params"], "out": {**out, "bias": out["bias"] + after["adapters"]["sum"]["out"]["bias"]}}
    by_hand = linear(params, inputs["tokens"], inputs["mask"])
    assert_close({"": model.apply(after, inputs)["logits"]}, {"": by_hand})
    unread = {**variables, "adapters": {"sum": {"out": {"biass": np.zeros(LABELS, np.float32)}}}}
    assert "'adapters/sum/out/biass' was not read" in fault(model.apply, unread, inputs)
    assert "no dense module" in fault(lora(), model, variables, jax.random.key(0))


class Stacked(nn.Module):
    """Three layers as one, their parameters stacked by `nn.scan`."""

    @nn.compact
    def __call__(self, tokens):
        layer = nn.scan(_Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layer(name="layers")(nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens), None)
        return x.mean(1)


class _Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(WIDTH, name="query")(x)), None


_Compiled = nn.jit(nn.Dense)


class Jitted(nn.Module):
    """A layer that Linen compiles by itself, once, and does not trace again."""

    @nn.compact
    def __call__(self, tokens):
        return _Compiled(WIDTH, name="query")(nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens)).mean(1)


def test_lora_on_layers_stacked_by_a_scan_is_refused():
    """It would be one update for all of them."""
    model = Model.from_linen(Stacked(), writes="pooled")
    said = fault(lora(targets="query"), model, model.init(jax.random.key(0)), jax.random.key(0))
    assert "layers/query has a kernel of [3, 6, 6]" in said


def test_an_adapter_that_a_module_would_drop_raises(inputs):
    model = Model.from_linen(Jitted(), writes="pooled")
    variables = model.init(jax.random.key(0))
    model.apply(variables, inputs)  # compiled without the interceptor
    adapted = {**variables, "adapters": {"shift": {"query": {"shift": jnp.ones(WIDTH)}}}}
    hooked = replace(model, hooks=(Shift(),))
    assert "the adapter leaf 'adapters/shift/query/shift' was not read" in fault(hooked.apply, adapted, inputs)
    model = Model.from_linen(Stacked(), writes="pooled")  # its layers have no places of their own
    adapted = {**model.init(jax.random.key(0)), "adapters": {"shift": {"layers": {"1": {"shift": jnp.ones(WIDTH)}}}}}
    assert "'adapters/shift/layers/1/shift' was not read" in fault(
        replace(model, hooks=(Shift(),)).apply, adapted, inputs
    )


def test_a_run_of_a_plan_is_opened_again_with_that_plan(tmp_path: Path) -> None:
    tokenizer = tl.pretrained.OwnTokenizer(lambda text: [1 + zlib.crc32(w.encode()) % 12 for w in text.split()], 8)
    model = Model.from_linen(Encoder(), writes="pooled", processor=tokenizer)
    variables = model.init(jax.random.key(0))
    task = tl.tasks.TextClassification(labels=("card", "parcel"))
    plan = lora(rank=2, targets="query")(task.attach(model), variables, jax.random.key(1))
    rows = [(f"my {thing} {end}", thing) for thing in ("card", "parcel") for end in "is was got went a b c d".split()]
    run = tl.finetune(plan, rows, steps=4, lr=1e-2, out=tmp_path / "run", quiet=True)
    again = tl.open_run(tmp_path / "run", model=plan)
    assert_same_bits(again.variables, run.variables)
    assert again.predict(["my card is"]) == run.predict(["my card is"])
    with pytest.raises(
        InputError, match=r"give it again, tl.open_run\(folder, model=\(model, variables\)\), or the plan"
    ):
        tl.open_run(tmp_path / "run")
    other = lora(rank=2, targets="query")(task.attach(model), variables, jax.random.key(2))
    with pytest.raises(InputError, match="these are not the variables the run"):
        tl.open_run(tmp_path / "run", model=other)
    probe = tl.methods.probe()(task.attach(model), variables, jax.random.key(1))
    with pytest.raises(InputError, match=r"is one of lora:.*, and this plan one of probe"):
        tl.open_run(tmp_path / "run", model=probe)
