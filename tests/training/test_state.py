from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import chains
from tests.training import toy
from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.training.optimizer import OptimizerSpec
from tl_jax.training.state import State, create, from_flat, pack, to_flat, unpack, variables
from tl_jax.training.step import compiled_train_step, train_step
from tl_jax.trees import by_path

HEAD = [("head/.*", Group("head")), (".*", FROZEN)]
SPEC = OptimizerSpec()


def made(model: Any, rng: np.random.Generator, rules: Any = HEAD) -> tuple[Any, Any, State]:
    """Variables, labels and the state that they start."""
    values = toy.start(model, rng)
    labels = toy.label(values, rules)
    return values, labels, create(values, labels, SPEC.build(labels), jax.random.key(3))


def pointers(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def foreign(array: Any) -> jax.Array:
    """A JAX array in memory that JAX did not allocate, as readers of files hand out: it cannot be donated."""
    array = np.asarray(array)
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    mine = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    mine[...] = array
    return jax.device_put(mine, may_alias=True)


def test_what_trains_is_float32_and_what_is_frozen_keeps_its_bits(rng: np.random.Generator) -> None:
    model = chains.plain()
    values = jax.tree.map(lambda x: x.astype(jnp.bfloat16), toy.start(model, rng))
    labels = toy.label(values, HEAD)
    state = create(values, labels, SPEC.build(labels), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trainable)} == {np.dtype(np.float32)}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert moments and {leaf.dtype for leaf in moments} == {np.dtype(np.float32)}
    for path, leaf in by_path(state.frozen).items():
        assert leaf.dtype == jnp.bfloat16 and np.asarray(leaf).tobytes() == by_path(values)[path].tobytes()
    assert set(by_path(state.frozen)) | set(by_path(state.trainable)) == set(by_path(values))
    assert state.statistics == {} and int(state.step) == 0


@pytest.mark.parametrize("kind", [np.array, jnp.array], ids=["numpy", "jax"])
def test_donation_never_takes_the_callers_arrays(rng: np.random.Generator, kind: Any) -> None:
    model = chains.normed()
    values = jax.tree.map(kind, toy.start(model, rng))
    before = jax.tree.map(np.array, values)
    labels = toy.label(values, HEAD)
    key = jax.random.key(0)
    state = create(values, labels, SPEC.build(labels), key)
    compiled_train_step(model, toy.loss, SPEC, labels)(state, toy.batch(model, rng), toy.hyper())
    assert toy.bits(values) == toy.bits(before)
    jax.random.split(key)  # raises if the step took it
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.trainable, state.frozen, state.opt_state)))


def test_a_transformation_that_keeps_the_parameters_can_be_donated(rng: np.random.Generator) -> None:
    model = chains.plain()
    values = toy.start(model, rng)
    labels = toy.label(values, HEAD)
    remembers = optax.GradientTransformation(lambda params: params, lambda grads, state, params=None: (grads, state))
    state = create(values, labels, remembers, jax.random.key(0))
    step = jax.jit(train_step(model, toy.loss, remembers), donate_argnums=0)
    step(state, toy.batch(model, rng), {})  # one buffer in two places of a donated argument would raise


def test_variables_are_whole_again(rng: np.random.Generator) -> None:
    values, _, state = made(chains.normed(), rng)
    whole = variables(state)
    assert whole.keys() == {"params", "batch_stats"}
    assert by_path(whole).keys() == by_path(values).keys() and toy.bits(whole) == toy.bits(values)
    assert variables(made(chains.plain(), rng)[2]).keys() == {"params"}


def test_the_flat_state_names_what_a_checkpoint_holds(rng: np.random.Generator) -> None:
    values, _, state = made(chains.normed(), rng)
    adapters = {"lora": {"head": {"dense": {"a": np.ones((2, 1), np.float32)}}}}
    values = {**values, "adapters": adapters}
    labels = toy.label(values, [("adapters/.*|head/.*/bias", Group("new")), (".*", FROZEN)])
    state = create(values, labels, SPEC.build(labels), jax.random.key(0))
    adam = "opt_state/1/inner_states/adamw/inner_state/0"
    assert set(to_flat(state)) == {
        *("step", "key", "trainable/head/dense/bias", "trainable/adapters/lora/head/dense/a", f"{adam}/count"),
        *(
            f"{adam}/{m}/{path}"
            for m in ("mu", "nu")
            for path in ("params/head/dense/bias", "adapters/lora/head/dense/a")
        ),
        *(f"statistics/{stage}/norm/{name}" for stage in ("stem", "blocks_0") for name in ("mean", "var")),
    }


def test_a_restored_state_goes_on_to_the_same_bits_in_the_same_buffers(rng: np.random.Generator) -> None:
    model = chains.normed()
    values, labels, state = made(model, rng, [("(blocks_0|head)/.*", Group("top")), (".*", FROZEN)])
    step = compiled_train_step(model, toy.loss, SPEC, labels)
    batches = [toy.batch(model, rng) for _ in range(4)]
    for batch in batches[:2]:
        state, _ = step(state, batch, toy.hyper())
    kept = {name: foreign(leaf) for name, leaf in to_flat(state).items()}
    values_kept = toy.bits(kept)
    lent = foreign(kept["trainable/head/dense/kernel"])
    place = lent.unsafe_buffer_pointer()
    assert jax.jit(lambda x: x + 1, donate_argnums=0)(lent).unsafe_buffer_pointer() != place
    for batch in batches[2:]:
        state, _ = step(state, batch, toy.hyper())

    compiled = step._cache_size()
    fresh = create(values, labels, SPEC.build(labels), jax.random.key(99))  # the key comes from the checkpoint
    again = from_flat(fresh, kept)
    before = pointers((again.trainable, again.opt_state, again.frozen, again.statistics))
    again, _ = step(again, batches[2], toy.hyper())
    assert pointers((again.trainable, again.opt_state, again.frozen, again.statistics)) == before
    again, _ = step(again, batches[3], toy.hyper())
    assert toy.bits(to_flat(again)) == toy.bits(to_flat(state)) and int(again.step) == 4
    assert step._cache_size() == compiled
    assert toy.bits(kept) == values_kept


def test_a_restored_state_lies_where_the_template_lies(rng: np.random.Generator) -> None:
    _, _, state = made(chains.plain(), rng)
    device = jax.devices()[0]
    placed = jax.device_put(state, device)
    assert all(leaf.committed for leaf in jax.tree.leaves(from_flat(placed, to_flat(state)).trainable))
    assert not any(leaf.committed for leaf in jax.tree.leaves(from_flat(state, to_flat(state)).trainable))


def test_a_checkpoint_that_does_not_fit_lists_all_faults(rng: np.random.Generator) -> None:
    _, _, state = made(chains.plain(), rng)
    flat = dict(to_flat(state))
    del flat["trainable/head/bias"]
    flat["trainable/layers_0/dense/bias"] = np.zeros(3, np.float32)
    flat["trainable/head/kernel"] = np.zeros((2, 2), np.float32)
    flat["step"] = np.zeros((), np.float32)
    with pytest.raises(InputError) as error:
        from_flat(state, flat)
    assert str(error.value).splitlines() == [
        "the checkpoint does not fit the plan:",
        "  missing: trainable/head/bias",
        "  not of this state: trainable/layers_0/dense/bias",
        "  trainable/head/kernel is float32[2, 2], not float32[6, 3]",
        "  step is float32[], not int32[]",
    ]


def test_the_unrolled_layout_is_the_identity(rng: np.random.Generator) -> None:
    _, _, state = made(chains.plain(), rng)
    assert pack(state.frozen, "unrolled") is state.frozen is unpack(state.frozen, "unrolled")
    with pytest.raises(InputError, match="unknown layout 'unroled'; did you mean 'unrolled'"):
        variables(replace(state, layout="unroled"))


@pytest.mark.parametrize(
    ("values", "label", "message"),
    [
        ({"kernel": np.ones(2, np.float32)}, FROZEN, "nothing trains"),
        ({"kernel": np.ones(2, np.int8)}, Group("a"), "kernel is int8 and cannot train: label it FROZEN"),
        ({"kernel": np.ones(2, np.float64)}, Group("a"), "kernel is float64, which JAX would round"),
    ],
)
def test_variables_that_cannot_be_held_or_trained(values: Any, label: Any, message: str) -> None:
    labels = {"params": {"kernel": label}}
    with pytest.raises(InputError, match=message):
        create({"params": values}, labels, optax.sgd(0.1), jax.random.key(0))
