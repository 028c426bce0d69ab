from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.toy import bits, close
from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.training.optimizer import KINDS, OptimizerSpec, decay_labels, optimizer
from tl_jax.training.partition import combine, partition
from tl_jax.trees import by_path

BODY, HEAD = Group("body"), Group("head")
SHAPES = {"body": {"kernel": (4, 3), "bias": (3,)}, "head": {"kernel": (3, 2), "bias": (2,)}}
ALL = {"body": {"kernel": BODY, "bias": BODY}, "head": {"kernel": HEAD, "bias": HEAD}}
TOP = {"body": {"kernel": FROZEN, "bias": FROZEN}, "head": {"kernel": HEAD, "bias": HEAD}}
THEIRS = {
    "adamw": lambda rate, decay: optax.adamw(rate, weight_decay=decay),
    "adam": lambda rate, decay: optax.adam(rate),
    "sgd": lambda rate, decay: optax.sgd(rate, momentum=0.9),
    "lion": lambda rate, decay: optax.lion(rate, weight_decay=decay),
}


def draw(seed: int, scale: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, scale, s), jnp.float32), SHAPES, is_leaf=is_shape)


def descend(tx: Any, params: Any, steps: int = 4, pick: Any = lambda grads: grads, **extra: Any) -> tuple[Any, Any]:
    """Parameters after some steps on gradients that do not depend on them, and the optimiser's state."""
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(pick(draw(100 + i)), state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [1e-2, optax.linear_schedule(1e-2, 0.0, 5)], ids=["number", "schedule"])
def test_equal_to_optax_bit_for_bit_where_all_trains(kind: str, rate: Any) -> None:
    decay = 0.1 if kind in ("adamw", "lion") else None
    ours, _ = descend(optimizer(ALL, learning_rate=rate, weight_decay=decay, kind=kind, clip=0.5), draw(0))
    theirs, _ = descend(optax.chain(optax.clip_by_global_norm(0.5), THEIRS[kind](rate, decay)), draw(0))
    assert bits(ours) == bits(theirs)


def test_sgd_decays_apart_from_its_momentum() -> None:
    params = draw(0)
    ours, _ = descend(optimizer(ALL, learning_rate=0.1, weight_decay=0.5, kind="sgd", clip=None), params, steps=1)
    want = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.5 * p), params, draw(100))
    close(ours, want, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rate_and_decay_as_arguments_give_what_numbers_give(kind: str) -> None:
    decay = None if kind == "adam" else 0.1
    fixed, _ = descend(optimizer(ALL, learning_rate=1e-2, weight_decay=decay, kind=kind), draw(0))
    given_, _ = descend(optimizer(ALL, kind=kind), draw(0), learning_rate=1e-2, weight_decay=0.1)
    close(given_, fixed, 1e-7)


def test_multipliers_act_leaf_by_leaf() -> None:
    labels = {
        "body": {"kernel": Group("a", lr=0.5), "bias": Group("b", lr=3.0, decay=0.0)},
        "head": {"kernel": Group("c", decay=2.0), "bias": HEAD},
    }
    ours, _ = descend(optimizer(labels, learning_rate=0.01, weight_decay=0.1, clip=None), draw(0))
    for path, group in by_path(labels).items():
        alone = optax.adamw(0.01 * group.lr, weight_decay=0.1 * group.decay)
        one = lambda tree, path=path: {path: by_path(tree)[path]}  # noqa: E731
        want, _ = descend(alone, one(draw(0)), pick=one)
        close(one(ours), want, 1e-6)


def test_many_rates_share_one_state() -> None:
    labels = {f"layers_{i}": {"kernel": Group(f"g{i}", lr=0.9**i)} for i in range(26)}
    params = jax.tree.map(lambda _: jnp.ones(2), labels)
    (state,) = [s for s in optimizer(labels).init(params) if isinstance(s, optax.transforms.PartitionState)]
    assert set(state.inner_states) == {"adamw", "frozen"}


@pytest.mark.parametrize("labels", [ALL, TOP], ids=["all", "head"])
def test_the_state_is_multi_transforms_and_holds_what_trains(labels: Any) -> None:
    params, (trainable, _) = draw(0), partition(draw(0), labels)
    need = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(trainable))
    for tree in (params, trainable):
        state = optimizer(labels).init(tree)
        assert any(isinstance(part, optax.transforms.PartitionState) for part in state)
        arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
        assert sum(leaf.nbytes for leaf in arrays) == need
        assert len(jax.tree.leaves(state)) - len(arrays) == 1  # Adam's count


def test_holes_and_full_tree_train_alike_and_frozen_leaves_get_nothing() -> None:
    tx, params = optimizer(TOP, learning_rate=1e-2, weight_decay=0.1), draw(0)
    full, _ = descend(tx, params)
    trainable, frozen = partition(params, TOP)
    half, _ = descend(tx, trainable, pick=lambda grads: partition(grads, TOP)[0])
    assert bits(full) == bits(combine(half, frozen))
    assert bits(full["body"]) == bits(params["body"]) and bits(full["head"]) != bits(params["head"])


@given(
    st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    st.floats(0.01, 10),
    st.floats(1e-3, 1e3),
    st.integers(),
)
def test_the_clip_is_optax_global_clip_over_what_trains(trains: list, bound: float, scale: float, seed: int) -> None:
    paths = iter(trains)
    labels = jax.tree.map(lambda _: HEAD if next(paths) else FROZEN, ALL)
    # A transformation that hands its input on shows what comes out of the clip.
    tx = optimizer(labels, transforms={"head": optax.identity()}, clip=bound)
    grads = draw(seed % 2**32, scale)
    trainable, frozen = partition(grads, labels)
    got, _ = tx.update(grads, tx.init(grads), grads)
    want, _ = optax.clip_by_global_norm(bound).update(trainable, optax.EmptyState())
    assert bits(partition(got, labels)[0]) == bits(want)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(partition(got, labels)[1]))
    louder = combine(trainable, jax.tree.map(lambda g: 1e6 * g, frozen))
    assert bits(tx.update(louder, tx.init(grads), grads)[0]) == bits(got)


def test_moments_of_narrow_leaves_are_float32() -> None:
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw(0))
    tx = optimizer(ALL, learning_rate=1e-2, weight_decay=0.1)
    after, state = descend(tx, params, pick=lambda g: jax.tree.map(lambda x: x.astype(jnp.bfloat16), g))
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(jnp.bfloat16)}


def test_transforms_of_the_user_act_on_groups_by_name() -> None:
    labels = {"body": {"kernel": BODY, "bias": FROZEN}, "head": {"kernel": HEAD, "bias": Group("head", lr=0.5)}}
    params, grads = draw(0), draw(1)
    tx = optimizer(labels, transforms={"body": optax.scale(-2.0), "head": optax.scale(-1.0)}, clip=None)
    got, _ = tx.update(grads, tx.init(params), params)
    factors = {"body": {"kernel": -2.0, "bias": 0.0}, "head": {"kernel": -1.0, "bias": -0.5}}
    close(got, jax.tree.map(lambda g, f: g * f, grads, factors), 0)


def test_transforms_take_extra_arguments() -> None:
    double = optax.GradientTransformationExtraArgs(
        optax.init_empty_state,
        lambda updates, state, params=None, *, by, **extra: (optax.tree.scale(by, updates), state),
    )
    tx = optimizer(TOP, transforms={"head": double}, clip=None)
    got, _ = tx.update(draw(1), tx.init(draw(0)), draw(0), by=2.0)
    close(got["head"], jax.tree.map(lambda g: 2 * g, draw(1)["head"]), 0)


def test_biases_and_norm_scales_do_not_decay_but_adapters_do() -> None:
    half = Group("half", decay=0.5)
    labels = {
        "params": {"layers_0": {"norm": {"scale": BODY, "bias": FROZEN}, "mlp": {"kernel": half, "bias": half}}},
        "adapters": {"ia3": {"layers_0": {"scale": BODY}}},
    }
    got = by_path(decay_labels(labels))
    assert {path: 0 if label is FROZEN else label.decay for path, label in got.items()} == {
        "params/layers_0/norm/scale": 0.0,
        "params/layers_0/norm/bias": 0,
        "params/layers_0/mlp/kernel": 0.5,
        "params/layers_0/mlp/bias": 0.0,
        "adapters/ia3/layers_0/scale": 1.0,
    }
    assert got["params/layers_0/norm/bias"] is FROZEN
    assert by_path(decay_labels({"bias": BODY}))["bias"].decay == 0


def test_a_spec_is_a_value_that_builds_with_arguments() -> None:
    assert OptimizerSpec("lion", None) == OptimizerSpec("lion", None) != OptimizerSpec("lion")
    spec, _ = descend(OptimizerSpec("lion", 0.5).build(TOP), draw(0), learning_rate=0.1, weight_decay=0.0)
    direct, _ = descend(optimizer(TOP, kind="lion", clip=0.5), draw(0), learning_rate=0.1, weight_decay=0.0)
    assert bits(spec) == bits(direct)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (ALL, {"kind": "adamv"}, "unknown optimiser 'adamv'; did you mean 'adam"),
        (ALL, {"clip": 0.0}, "clip must be a positive norm, or None for no clipping, not 0.0"),
        (ALL, {"weight_decay": -1.0}, "weight decay must be a number ≥ 0, not -1.0"),
        (ALL, {"kind": "adam", "weight_decay": 0.1}, "adam does not decay weights; did you mean 'adamw'"),
        (ALL, {"transforms": {"head": optax.sgd(1)}}, "the group 'body' has no transformation"),
        (TOP, {"transforms": {"haed": optax.sgd(1)}}, "the group 'head' has no transformation; did you mean 'haed'"),
        (
            TOP,
            {"transforms": {"head": optax.sgd(1), "heads": optax.sgd(1)}},
            "transforms names 'heads', which no group has; did you mean 'head'",
        ),
        (TOP, {"transforms": {"head": optax.sgd(1)}, "learning_rate": 1.0}, "do not give both"),
        ({"a": Group("frozen")}, {"transforms": {"frozen": optax.sgd(1)}}, "cannot be called 'frozen'"),
    ],
)
def test_bad_arguments(labels: Any, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimizer(labels, **arguments)


def test_what_an_update_lacks_is_named() -> None:
    tx = optimizer(ALL)
    with pytest.raises(InputError, match="without a learning_rate takes it at each update"):
        tx.update(draw(1), tx.init(draw(0)), draw(0), weight_decay=0.0)
    with pytest.raises(InputError, match="without a weight_decay takes it"):
        tx.update(draw(1), tx.init(draw(0)), draw(0), learning_rate=0.1)
    with pytest.raises(InputError, match="weight decay needs the parameters"):
        tx.update(draw(1), tx.init(draw(0)), learning_rate=0.1, weight_decay=0.1)
    with pytest.raises(InputError, match="has a label but is no leaf"):
        tx.init(draw(0)["body"])
