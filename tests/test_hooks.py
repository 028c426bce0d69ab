"""Hooks: overriding leaves, intercepting calls, and leaves that nothing reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tests.chains import Shift, fault
from tests.parity import assert_close, assert_same_bits
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.stage import Stage


@dataclass(frozen=True)
class Scale:
    """Override: a leaf multiplied by a number, `adapters/scale/<path of the leaf>`."""

    name: str = "scale"

    def override(self, params: Any, leaves: Any) -> Any:
        if not isinstance(leaves, dict) and not hasattr(leaves, "items"):
            return params * leaves
        return {key: self.override(value, leaves[key]) if key in leaves else value for key, value in params.items()}


@dataclass(frozen=True)
class Deaf(Shift):
    """Intercept: forgets to read its leaf."""

    def intercept(self, site: str, leaves: Any, call: Any, *args: Any) -> Any:
        return call(*args)


def with_shift(variables, *sites, name="shift", width=chains.WIDTH):
    tree: dict[str, Any] = {}
    for i, site in enumerate(sites):
        node = tree
        for part in site.split("/"):
            node = node.setdefault(part, {})
        node["shift"] = jnp.full(width, 0.1 * (i + 1))
    return {**variables, "adapters": {**variables.get("adapters", {}), name: tree}}


def with_head_shift(variables):
    return with_shift(variables, "head", width=chains.LABELS)


def test_an_override_replaces_leaves_before_use(rng):
    model = replace(chains.plain(), hooks=(Scale(),))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    params = variables["params"]
    adapted = {**variables, "adapters": {"scale": {"layers_1": {"dense": {"kernel": jnp.float32(3.0)}}}}}
    dense = {**params["layers_1"]["dense"], "kernel": 3 * params["layers_1"]["dense"]["kernel"]}
    by_hand = {"params": {**params, "layers_1": {**params["layers_1"], "dense": dense}}}
    assert_same_bits(model.apply(adapted, inputs), chains.plain().apply(by_hand, inputs))
    np.testing.assert_array_equal(
        adapted["params"]["layers_1"]["dense"]["kernel"], params["layers_1"]["dense"]["kernel"]
    )


def test_an_override_reaches_borrowed_and_shared_leaves(rng):
    for chain, scope, path in [
        (chains.tied, "embeddings", ("token", "embedding")),
        (chains.shared, "layers", ("dense", "kernel")),
    ]:
        model = replace(chain(), hooks=(Scale(),))
        variables, inputs = chains.variables(model, rng), chains.text(rng)
        module, leaf = path
        adapted = {**variables, "adapters": {"scale": {scope: {module: {leaf: jnp.float32(2.0)}}}}}
        mine = variables["params"][scope]
        moved = {**mine, module: {**mine[module], leaf: 2 * mine[module][leaf]}}
        by_hand = {"params": {**variables["params"], scope: moved}}
        assert_same_bits(model.apply(adapted, inputs), chain().apply(by_hand, inputs))


def test_an_interceptor_acts_at_its_sites_alone(rng):
    model = replace(chains.plain(), hooks=(Shift(),))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    adapted = with_shift(variables, "layers_0/dense", "layers_2/dense")
    params = dict(variables["params"])
    for i, name in enumerate(("layers_0", "layers_2"), 1):  # after a dense layer a shift is more bias
        dense = params[name]["dense"]
        params[name] = {**params[name], "dense": {**dense, "bias": dense["bias"] + 0.1 * i}}
    assert_close(
        {"logits": model.apply(adapted, inputs)["logits"]},
        {"logits": chains.plain().apply({"params": params}, inputs)["logits"]},
    )
    assert not np.array_equal(model.apply(adapted, inputs)["logits"], model.apply(variables, inputs)["logits"])


def test_an_interceptor_acts_in_training_under_jit_grad_and_remat(rng, seed):
    plain = replace(chains.plain(), hooks=(Shift(),))
    variables, inputs = chains.variables(plain, rng), chains.text(rng)
    adapted = with_shift(variables, "layers_0/dense", "layers_1")
    options = {"train_from": "layers_0", "key": jax.random.key(seed)}

    def grad(model):
        def loss(adapters):
            return jnp.square(model.apply({**adapted, "adapters": adapters}, inputs, **options)["logits"]).sum()

        return jax.grad(loss)(adapted["adapters"])

    eager = grad(plain)
    assert all(abs(leaf).min() > 0 for leaf in paths(eager).values())
    assert_close(jax.jit(grad, static_argnums=0)(plain), eager)
    assert_close(grad(replace(plain, remat=True)), eager)


def test_hooks_that_were_traced_before_do_not_linger(rng):
    """An interceptor is part of the model, hence of the compilation key: with and without it are two programs."""
    plain = chains.plain()
    variables, inputs = chains.variables(plain, rng), chains.text(rng)
    run = jax.jit(lambda model, variables: model.apply(variables, inputs)["logits"], static_argnums=0)
    before = run(plain, variables)
    shifted = run(replace(plain, hooks=(Shift(),)), with_head_shift(variables))
    np.testing.assert_allclose(shifted, before + 0.1, rtol=1e-5)
    np.testing.assert_array_equal(run(plain, variables), before)


def test_two_hooks_act_together(rng):
    model = replace(chains.plain(), hooks=(Shift(), Shift("second"), Scale()))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    adapted = with_shift(with_head_shift(variables), "head", name="second", width=chains.LABELS)
    adapted["adapters"]["scale"] = {"head": {"bias": jnp.float32(0.0)}}
    params = variables["params"]
    by_hand = {"params": {**params, "head": {**params["head"], "bias": jnp.full(chains.LABELS, 0.2)}}}
    assert_close({"": model.apply(adapted, inputs)["logits"]}, {"": chains.plain().apply(by_hand, inputs)["logits"]})


@pytest.mark.parametrize(
    ("hooks", "sites", "unread"),
    [
        ((), ("layers_0/dense",), "adapters/shift/layers_0/dense/shift"),
        ((Deaf(),), ("layers_0/dense",), "adapters/shift/layers_0/dense/shift"),
        ((Shift("other"),), ("layers_0/dense",), "adapters/shift/layers_0/dense/shift"),
        ((Shift(),), ("layers_0/dense", "layers_1/dence"), "adapters/shift/layers_1/dence/shift"),
    ],
)
def test_a_leaf_that_nothing_reads_raises(hooks, sites, unread, rng):
    model = replace(chains.plain(), hooks=hooks)
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    adapted = with_shift(variables, *sites)
    said = f"the adapter leaf {unread!r} was not read"
    assert said in fault(model.apply, adapted, inputs)
    with pytest.raises(InputError, match="was not read"):
        jax.jit(lambda v: model.apply(v, inputs))(adapted)


def test_leaves_of_stages_that_did_not_run_need_not_be_read(rng):
    model = replace(chains.plain(), hooks=(Deaf(),))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    adapted = with_shift(variables, "layers_1/dense")
    state = model.apply(adapted, inputs, stop="layers_1")
    assert "was not read" in fault(model.apply, adapted, state, start="layers_1", stop="layers_2")
    state = model.apply(variables, inputs, stop="layers_2")
    assert "logits" in model.apply(adapted, state, start="layers_2")


class LookupAndAttend(nn.Module):
    """An embedding used by two of its methods."""

    @nn.compact
    def __call__(self, tokens, train):
        embed = nn.Embed(chains.VOCABULARY, chains.WIDTH, name="token")
        hidden = embed(tokens)
        return hidden, embed.attend(jnp.ones(chains.WIDTH))


def test_an_interceptor_acts_on_calls_not_on_other_methods(rng):
    stage = Stage("embeddings", LookupAndAttend(), ("tokens",), ("hidden", "logits"))
    model = Model((stage,), hooks=(Shift(),))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    before, after = (model.apply(v, inputs) for v in (variables, with_shift(variables, "embeddings/token")))
    assert_close({"": after["hidden"]}, {"": before["hidden"] + jnp.float32(0.1)})
    assert_same_bits({"": after["logits"]}, {"": before["logits"]})


def test_holes_among_the_leaves_need_not_be_read(rng):
    model = replace(chains.plain(), hooks=(Shift(),))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    holed = {**variables, "adapters": {"shift": {"layers_1": {"dense": {"shift": None}}}}}
    assert_same_bits(model.apply(holed, inputs), model.apply(variables, inputs))


def test_an_interceptor_in_a_shared_scope_acts_at_each_use(rng):
    model = replace(chains.shared(), hooks=(Shift(),))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    adapted = with_shift(variables, "layers/dense")
    layers = variables["params"]["layers"]
    dense = {**layers["dense"], "bias": layers["dense"]["bias"] + 0.1}
    by_hand = {"params": {**variables["params"], "layers": {**layers, "dense": dense}}}
    assert_close({"": model.apply(adapted, inputs)["logits"]}, {"": chains.shared().apply(by_hand, inputs)["logits"]})
