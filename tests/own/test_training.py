"""What trains in somebody's own network, what stays, and what a step costs."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.chains import fault
from tests.own.networks import LABELS, Encoder, Net, decided, encoder, headed, moved, steps
from tests.parity import assert_same_bits
from tests.training.toy import batch as text_batch
from tests.training.toy import hyper, loss
from tl_jax.groups import FROZEN, Group
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.training.flops import flops
from tl_jax.training.optimizer import OptimizerSpec
from tl_jax.training.state import create
from tl_jax.training.step import train_step


def test_rules_train_what_they_say_of_a_linen_module(rng):
    """Law 4, and that nothing else stays."""
    model = headed(encoder())
    variables = model.init(jax.random.key(0))
    labels = decided([("embed/.*", FROZEN), (".*/bias", Group("biases")), (".*", Group("rest"))], variables)
    batch = text_batch(encoder(), rng)
    after = steps(model, variables, labels, batch)
    assert moved(variables, after) == {"query/kernel", "query/bias", "head/kernel", "head/bias"}


def test_biases_alone(rng):
    model = headed(encoder())
    variables = model.init(jax.random.key(0))
    labels = decided([("(.*/)?bias", Group("biases")), (".*", FROZEN)], variables)
    assert moved(variables, steps(model, variables, labels, text_batch(encoder(), rng))) == {"query/bias", "head/bias"}


@pytest.mark.parametrize(
    ("frozen", "still"),
    [
        ("(conv|norm)_0/.*", {"norm_0"}),
        ("norm_[01]/.*", {"norm_0", "norm_1"}),
        ("(conv|norm)_[01]/.*", {"norm_0", "norm_1"}),
        ("conv_0/.*", set()),
    ],
)
def test_a_frozen_batch_norm_keeps_its_statistics_and_the_others_do_not(frozen, still, image, rng):
    """Law 4 inside one network: a norm is in evaluation mode where its parameters are frozen."""
    model = Model.from_linen(Net())
    variables = model.init(jax.random.key(0), image)
    labels = decided([(frozen, FROZEN), (".*", Group("rest"))], variables)
    batch = {**image, "targets": rng.integers(0, LABELS, 4).astype(np.int32), "weights": np.ones(4, np.float32)}
    after = steps(model, variables, labels, batch)
    held = {path for path, label in paths(labels).items() if label is FROZEN}
    held |= {f"batch_stats/{norm}/{name}" for norm in still for name in ("mean", "var")}
    assert moved(variables, after) == paths(variables).keys() - held


def test_a_norm_held_still_computes_as_in_evaluation(image):
    model = Model.from_linen(Net())
    variables = model.init(jax.random.key(0), image)
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    apply = partial(model.apply, variables, image, train_from="network", mutable=("batch_stats",))
    state, changed = apply(evaluate=("norm_0", "norm_1"))
    assert_same_bits({"": state["logits"]}, {"": model.apply(variables, image)["logits"]})
    assert_same_bits(changed["batch_stats"], variables["batch_stats"])
    assert not np.array_equal(apply(evaluate=("norm_0",))[0]["logits"], state["logits"])
    assert "'norm_2' is to be in evaluation mode" in fault(apply, evaluate=("norm_2",))


def test_below_a_head_that_trains_alone_the_network_is_in_evaluation_mode(image, rng):
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, image, train):
            return nn.Dropout(0.5, deterministic=not train)(Net(name="net")(image, train))

    model = headed(Model.from_linen(Pooled(), writes="pooled"))
    variables = model.init(jax.random.key(0), image)
    labels = decided([("head/.*", Group("head")), (".*", FROZEN)], variables)
    batch = {**image, "targets": rng.integers(0, LABELS, 4).astype(np.int32), "weights": np.ones(4, np.float32)}
    assert moved(variables, steps(model, variables, labels, batch)) == {"head/kernel", "head/bias"}


def test_a_step_costs_what_its_trainable_part_needs(rng):
    """Law 5 for one set of rules on somebody's own module."""
    module = Encoder(width=32, rate=0.0)
    model = Model.from_linen(module, writes="logits")
    variables = model.init(jax.random.key(0))
    labels = decided([("query/.*", Group("query")), (".*", FROZEN)], variables)
    batch, tx = text_batch(model, rng), OptimizerSpec().build(labels)
    ours = flops(train_step(model, loss, tx), create(variables, labels, tx, jax.random.key(0)), batch, hyper())

    frozen, chosen = {"embed": variables["params"]["embed"]}, {"query": variables["params"]["query"]}
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.01))

    def reference(chosen: Any, moments: Any) -> Any:
        def total(chosen: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                logits = module.apply({"params": {**frozen, **chosen}}, batch["tokens"], batch["mask"], train=True)
            return loss({"logits": logits}, batch)

        (value, weight), grads = jax.value_and_grad(total, has_aux=True)(chosen)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.tree.norm(grads)
        updates, new = adam.update(grads, moments, chosen)
        stepped = optax.apply_updates(chosen, jax.tree.map(lambda u: -1e-2 * u, updates))
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), (stepped, new), (chosen, moments)), norm

    assert abs(ours / flops(reference, chosen, adam.init(chosen)) - 1) <= 0.02
