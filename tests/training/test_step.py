from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
from tl_jax.rules import paths
from tl_jax.training.flops import flops
from tl_jax.training.optimizer import OptimizerSpec, decay_labels
from tl_jax.training.partition import combine
from tl_jax.training.state import create, own, variables
from tl_jax.training.step import compiled_eval_step, compiled_train_step, eval_step, train_step
from tl_jax.trees import by_path

SPEC = OptimizerSpec()
G = Group("g")
small_bert = partial(chains.bert, num_hidden_layers=1)  # compiles in half the time
# Chains, and the rules that train a part of each.
CASES = {
    "head": (chains.plain, [("head/.*", G), (".*", FROZEN)]),
    "middle": (chains.plain, [("layers_1/.*", G), (".*", FROZEN)]),
    "biases": (small_bert, [(".*/bias", G), (".*", FROZEN)]),
    "top of bert": (small_bert, [("(layers_0|head)/.*", Group("top", lr=0.5)), (".*", FROZEN)]),
    "all": (small_bert, [("head/.*", Group("head", lr=2.0)), (".*", G)]),
    "shared scope": (chains.shared, [("layers/.*", G), (".*", FROZEN)]),
    "tied head": (chains.tied, [("embeddings/.*|head/.*", G), (".*", FROZEN)]),
    "batch norm": (chains.normed, [("blocks_0/.*|head/.*", G), (".*", FROZEN)]),
    "below a still norm": (chains.normed, [("stem/.*", G), (".*", FROZEN)]),
}


def begin(case: str, rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    make, rules = CASES[case]
    model = make()
    values = toy.start(model, rng)
    labels = decay_labels(toy.label(values, rules))
    return model, values, labels, create(values, labels, SPEC.build(labels), jax.random.key(1))


def once(model: Any, labels: Any, state: Any, batch: Any, hyper: Any = None, **options: Any) -> tuple[Any, Any]:
    """One compiled step on a copy of the state; equal arguments share one compilation."""
    step = compiled_train_step(model, toy.loss, SPEC, labels, **options)
    return step(own(state), batch, toy.hyper() if hyper is None else hyper)


def split(batch: dict[str, np.ndarray], parts: int) -> dict[str, np.ndarray]:
    return {name: array.reshape(parts, -1, *array.shape[1:]) for name, array in batch.items()}


@pytest.mark.parametrize("case", CASES)
def test_law_4_frozen_leaves_and_still_statistics_keep_their_bits(case: str, rng: np.random.Generator) -> None:
    model, values, labels, state = begin(case, rng)
    step = compiled_train_step(model, toy.loss, SPEC, labels)
    for _ in range(3):
        state, metrics = step(state, toy.batch(model, rng), toy.hyper(decay=0.1))
        assert bool(metrics["finite"])
    assert int(state.step) == 3
    before, after = paths(values), paths(variables(state))
    assert before.keys() == after.keys()
    trains = {path for path, label in paths(labels).items() if label is not FROZEN}
    homes = {path.split("/")[0] for path in trains}
    for path in before:
        same = np.asarray(after[path]).tobytes() == before[path].tobytes()
        if path.startswith("batch_stats/"):
            assert same == (path.split("/")[1] not in homes), path
        # Softmax does not see a key's bias nor batch norm that of its convolution: their gradients are rounding.
        elif path not in trains or not path.endswith(("attention/key/bias", "conv/bias")):
            assert same == (path not in trains), path


STILL = {"below a still norm": ("blocks_0",)}  # above what trains, with statistics and nothing to train


def reference(model: Any, labels: Any, accumulate: int, still: tuple[str, ...] = ()) -> Any:
    """The step written out: plain `jax.grad` over what trains, plain optax, and nothing of ours but the model."""
    trains = {path for path, label in by_path(labels).items() if label is not FROZEN}
    decays = {path: label.decay != 0 for path, label in by_path(labels).items() if path in trains}
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.01, mask=lambda _: decays),
        optax.scale(-1e-3),
    )
    used = [model.first_use(path.removeprefix("params/")) for path in trains]
    mode = {"train_from": model.names[min(used)], "evaluate": still, "mutable": ("batch_stats",)}

    def step(trained: Any, moments: Any, rest: Any, statistics: Any, key: Any, batch: Any) -> Any:
        def loss(trained: Any, statistics: Any, micro: Any) -> Any:
            tree: dict[str, Any] = {"batch_stats": statistics} if statistics else {}
            for path, leaf in {**rest, **trained}.items():
                *above, last = path.split("/")
                node = tree
                for name in above:
                    node = node.setdefault(name, {})
                node[last] = leaf
            inputs = {name: micro[name] for name in micro if name not in ("targets", "weights")}
            with jax.default_matmul_precision("highest"):
                outputs, changed = model.apply(tree, inputs, key=key, **mode)
            total, weight = toy.loss(outputs, micro)
            return total, (weight, changed.get("batch_stats", {}))

        def micro_step(carry: Any, micro: Any) -> Any:
            total, weight, grads, statistics = carry
            (t, (w, statistics)), g = jax.value_and_grad(loss, has_aux=True)(trained, statistics, micro)
            return (total + t, weight + w, jax.tree.map(jnp.add, grads, g), statistics), None

        if accumulate > 1:
            zeros = (0.0, 0.0, jax.tree.map(jnp.zeros_like, trained), statistics)
            (total, weight, grads, new_statistics), _ = jax.lax.scan(micro_step, zeros, batch)
        else:
            (total, (weight, new_statistics)), grads = jax.value_and_grad(loss, has_aux=True)(
                trained, statistics, batch
            )
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.tree.norm(grads)
        updates, new_moments = tx.update(grads, moments, trained)
        new = (optax.apply_updates(trained, updates), new_moments, new_statistics)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, (trained, moments, statistics))
        return kept, total, weight, norm, finite

    return step, tx


@pytest.mark.parametrize(
    ("case", "accumulate"), [*((case, 1) for case in CASES), ("head", 2), ("top of bert", 2), ("batch norm", 2)]
)
def test_law_5_a_step_costs_what_its_trainable_part_needs(
    case: str, accumulate: int, rng: np.random.Generator, record_property: Any
) -> None:
    model, _, labels, state = begin(case, rng)
    # Clip, norm logging, NaN guard and accumulation are on in both.
    batch = toy.batch(model, rng, rows=8)
    batch = split(batch, accumulate) if accumulate > 1 else batch
    step = train_step(model, toy.loss, SPEC.build(labels), accumulate=accumulate)
    ours = flops(step, state, batch, toy.hyper(decay=0.01))

    trained, rest = by_path(state.trainable), by_path(state.frozen)
    plain, tx = reference(model, labels, accumulate, STILL.get(case, ()))
    moments = tx.init(trained)
    theirs = flops(plain, trained, moments, rest, state.statistics, state.key, batch)
    record_property("flops ratio", ours / theirs)
    print(f"{case}, accumulate {accumulate}: {ours:,} against {theirs:,} = {ours / theirs:.4f}")
    assert abs(ours / theirs - 1) <= 0.02

    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if leaf.ndim)  # noqa: E731
    assert size(state.opt_state) == size(moments) == 2 * sum(leaf.nbytes for leaf in trained.values())
    assert any(isinstance(part, optax.transforms.PartitionState) for part in state.opt_state)


@pytest.mark.parametrize("case", ["middle", "batch norm"])
def test_a_step_computes_what_the_reference_computes(case: str, rng: np.random.Generator) -> None:
    model, _, labels, state = begin(case, rng)
    batch = toy.batch(model, rng)
    trained = by_path(state.trainable)
    plain, tx = reference(model, labels, 1)
    key = jax.random.fold_in(state.key, 0)
    (after, _, statistics), total, weight, norm, _ = jax.jit(plain)(
        trained, tx.init(trained), by_path(state.frozen), state.statistics, key, batch
    )
    ours, metrics = once(model, labels, state, batch, toy.hyper(1e-3, 0.01))
    toy.close(by_path(ours.trainable), after, 1e-5)
    toy.close(ours.statistics, statistics, 1e-5)
    np.testing.assert_allclose(metrics["loss_sum"], total, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert float(metrics["weight"]) == float(weight) == 4


def test_freezing_saves_the_backward_pass(rng: np.random.Generator) -> None:
    model = chains.bert()
    values, batch = toy.start(model, rng), toy.batch(model, rng, rows=8)
    cost = {}
    for trains in ("head/.*", "(layers_1|head)/.*", ".*"):
        labels = toy.label(values, [(trains, G)] if trains == ".*" else [(trains, G), (".*", FROZEN)])
        tx = SPEC.build(labels)
        state = create(values, labels, tx, jax.random.key(0))
        cost[trains] = flops(train_step(model, toy.loss, tx), state, batch, toy.hyper())
    least, some, whole = cost.values()
    assert least < 0.5 * whole and some < 0.75 * whole


@pytest.mark.parametrize(("case", "parts"), [("head", 2), ("shared scope", 2), ("all", 4)])
def test_law_7_accumulated_micro_batches_equal_the_joined_batch(
    case: str, parts: int, rng: np.random.Generator
) -> None:
    model, _, labels, state = begin(case, rng)
    batch = toy.batch(model, rng, rows=8)
    batch["weights"] = np.array([1, 1, 0, 2, 1, 0, 0.5, 1], np.float32)  # uneven micro-batches, padding rows too
    joined, whole = once(model, labels, state, batch)
    apart, sums = once(model, labels, state, split(batch, parts), accumulate=parts)
    np.testing.assert_allclose(sums["loss_sum"], whole["loss_sum"], rtol=1e-5)
    np.testing.assert_allclose(sums["grad_norm"], whole["grad_norm"], rtol=1e-5)
    assert float(sums["weight"]) == float(whole["weight"]) == 6.5
    # The first moments are the gradients; the parameters after one Adam step only their signs.
    moments = [
        {path: leaf for path, leaf in by_path(s.opt_state).items() if "/mu/" in path and "key/bias" not in path}
        for s in (apart, joined)
    ]
    toy.close(*moments, 2e-5)


def test_statistics_go_from_micro_batch_to_micro_batch(rng: np.random.Generator) -> None:
    model, _, labels, state = begin("batch norm", rng)
    batch = toy.batch(model, rng, rows=8)
    got = once(model, labels, state, split(batch, 2), accumulate=2)[0].statistics
    want = state.statistics
    apply = jax.jit(model.apply, static_argnames=("train_from", "mutable"))
    for half in (slice(0, 4), slice(4, 8)):
        whole = {**variables(state), "batch_stats": want}
        mode = {"train_from": "blocks_0", "mutable": ("batch_stats",)}
        want = apply(whole, {"image": batch["image"][half]}, **mode)[1]["batch_stats"]
    toy.close(got, want, 1e-5)


def test_the_gradient_is_that_of_the_mean_loss_in_the_mode_the_holes_say(rng: np.random.Generator) -> None:
    model, _, labels, state = begin("middle", rng)
    batch = toy.batch(model, rng)
    inputs = {name: batch[name] for name in ("tokens", "mask", "noise")}
    key = jax.random.fold_in(state.key, 0)

    def mean(trainable: Any, train_from: str) -> jax.Array:
        whole = combine(trainable, state.frozen)
        total, weight = toy.loss(model.apply(whole, inputs, key=key, train_from=train_from), batch)
        return total / weight

    metrics = once(model, labels, state, batch)[1]
    value, grads = jax.jit(jax.value_and_grad(mean), static_argnums=1)(state.trainable, "layers_1")
    np.testing.assert_allclose(metrics["loss_sum"], 4 * value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    assert (
        abs(4 * jax.jit(mean, static_argnums=1)(state.trainable, "layers_0") - metrics["loss_sum"]) > 1e-3
    )  # dropout below would show


def test_steps_draw_different_dropout_and_runs_their_own(rng: np.random.Generator) -> None:
    model, values, labels, state = begin("middle", rng)
    batch = toy.batch(model, rng)
    other = create(values, labels, SPEC.build(labels), jax.random.key(2))
    later, _ = once(model, labels, state, batch, toy.hyper(rate=0.0))
    losses = [float(once(model, labels, s, batch)[1]["loss_sum"]) for s in (state, state, other, later)]
    assert losses[0] == losses[1] and len(set(losses)) == 3


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(
    poison: str, accumulate: int, rng: np.random.Generator
) -> None:
    model, _, labels, state = begin("batch norm", rng)

    def loss(outputs: Any, batch: Any) -> Any:
        total, weight = toy.loss(outputs, batch)
        bad = batch["bad"].max()
        if poison == "loss":
            return jnp.where(bad > 0, jnp.nan, total), weight
        # A finite value with an infinite slope: sqrt at 0.
        return total + jnp.sqrt(jnp.where(bad > 0, 0.0 * total, 1.0)), weight

    step = compiled_train_step(model, loss, SPEC, labels, accumulate=accumulate)
    good = toy.batch(model, rng, rows=8) | {"bad": np.zeros(8, np.float32)}
    bad = good | {"bad": np.eye(8, dtype=np.float32)[5]}
    if accumulate > 1:
        good, bad = split(good, accumulate), split(bad, accumulate)
    state, metrics = step(state, good, toy.hyper())
    assert bool(metrics["finite"]) and int(state.step) == 1
    before = jax.tree.map(np.array, (state.step, state.trainable, state.opt_state, state.statistics))
    state, metrics = step(state, bad, toy.hyper())
    assert not bool(metrics["finite"])
    assert toy.bits((state.step, state.trainable, state.opt_state, state.statistics)) == toy.bits(before)
    state, metrics = step(state, good, toy.hyper())
    assert bool(metrics["finite"]) and int(state.step) == 2


def test_a_batch_of_padding_only_is_no_division_by_zero(rng: np.random.Generator) -> None:
    model, _, labels, state = begin("head", rng)
    batch = toy.batch(model, rng) | {"weights": np.zeros(4, np.float32)}
    after, metrics = once(model, labels, state, batch)
    assert bool(metrics["finite"]) and float(metrics["grad_norm"]) == 0
    assert toy.bits(after.trainable) == toy.bits(state.trainable)


@dataclass(frozen=True)
class Task:
    smoothing: float

    def total_loss(self, outputs: Any, batch: Any) -> Any:
        total, weight = toy.loss(outputs, batch)
        return (1 - self.smoothing) * total, weight


def test_law_11_rate_decay_seed_and_steps_compile_nothing(rng: np.random.Generator) -> None:
    traces = []

    @dataclass(frozen=True)
    class Counted(Task):
        def total_loss(self, outputs: Any, batch: Any) -> Any:
            traces.append(1)
            return super().total_loss(outputs, batch)

    steps = set()
    for seed, rate, decay, count in [(0, 1e-3, 0.0, 2), (1, 3e-3, 0.1, 3), (2, 1e-4, 0.01, 1)]:
        model, rules = chains.plain(), CASES["head"][1]
        values = toy.start(model, np.random.default_rng(seed))
        labels = decay_labels(toy.label(values, rules))
        state = create(values, labels, OptimizerSpec().build(labels), jax.random.key(seed))
        step = compiled_train_step(model, Counted(0.1).total_loss, OptimizerSpec(), labels)
        steps.add(id(step))
        for _ in range(count):
            state, _ = step(state, toy.batch(model, rng), toy.hyper(rate, decay))
    assert len(steps) == 1 and len(traces) == 1 and step._cache_size() == 1
    step(state, toy.batch(model, rng, length=4), toy.hyper())
    assert len(traces) == 2  # another shape does

    other = [
        compiled_train_step(chains.plain(layers=2), Counted(0.1).total_loss, SPEC, labels),
        compiled_train_step(model, Counted(0.2).total_loss, SPEC, labels),
        compiled_train_step(model, Counted(0.1).total_loss, OptimizerSpec(clip=None), labels),
        compiled_train_step(model, Counted(0.1).total_loss, SPEC, {**labels, "params": labels["params"] | {"x": G}}),
        compiled_train_step(model, Counted(0.1).total_loss, SPEC, labels, accumulate=2),
        compiled_train_step(model, Counted(0.1).total_loss, SPEC, labels, precision="bfloat16"),
    ]
    assert len({id(step) for step in other} | steps) == 7


def test_a_step_reuses_the_buffers_of_its_state(rng: np.random.Generator) -> None:
    model, _, labels, state = begin("batch norm", rng)
    trees = lambda s: (s.trainable, s.frozen, s.opt_state, s.statistics)  # noqa: E731
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trees(state))]
    step = compiled_train_step(model, toy.loss, SPEC, labels)
    after, _ = step(state, toy.batch(model, rng), toy.hyper())
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trees(after))] == before
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(trees(state)))


def test_float32_means_exact_products_and_bfloat16_leaves_trainables_float32(rng: np.random.Generator) -> None:
    model, _, labels, state = begin("middle", rng)
    batch = toy.batch(model, rng)
    tx = SPEC.build(labels)
    arguments = (state, batch, toy.hyper())
    exact = str(jax.make_jaxpr(train_step(model, toy.loss, tx))(*arguments))
    assert exact.count("dot_general[") == exact.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0
    half = train_step(model.cast(jnp.bfloat16), toy.loss, tx, precision="bfloat16")
    assert "Precision.HIGHEST" not in str(jax.make_jaxpr(half)(*arguments))
    after, metrics = jax.jit(half)(*arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(after.trainable)} == {np.dtype(np.float32)}
    want = once(model, labels, state, batch)[1]["loss_sum"]
    assert metrics["loss_sum"].dtype == np.float32
    np.testing.assert_allclose(metrics["loss_sum"], want, rtol=0.05)
    assert float(metrics["loss_sum"]) != float(want)


def test_evaluation_gives_the_last_stages_outputs_and_the_sums(rng: np.random.Generator) -> None:
    model, values, _, state = begin("head", rng)
    batch = toy.batch(model, rng)
    outputs, sums = jax.jit(eval_step(model, toy.loss))(values, batch)
    want = jax.jit(model.apply)(values, {name: batch[name] for name in ("tokens", "mask")})
    assert outputs.keys() == {"logits"}
    toy.close(outputs["logits"], want["logits"], 1e-6)
    np.testing.assert_allclose(sums["loss_sum"], toy.loss(want, batch)[0], rtol=1e-6)
    assert float(sums["weight"]) == 4
    step = compiled_eval_step(chains.plain(), Task(0.0).total_loss)
    assert step is compiled_eval_step(chains.plain(), Task(0.0).total_loss)
    toy.close(step(variables(state), batch)[0], outputs, 1e-5)


def test_bad_arguments(rng: np.random.Generator) -> None:
    model, _, labels, state = begin("head", rng)
    tx = SPEC.build(labels)
    with pytest.raises(InputError, match="accumulate must be at least 1, not 0"):
        train_step(model, toy.loss, tx, accumulate=0)
    with pytest.raises(InputError, match="unknown precision 'float16'; did you mean 'bfloat16' or 'float32'"):
        eval_step(model, toy.loss, precision="float16")
    with pytest.raises(InputError, match=r"3 micro-batches need that leading axis; 'tokens' has \[4, 5\]"):
        train_step(model, toy.loss, tx, accumulate=3)(state, toy.batch(model, rng), toy.hyper())
    stray = {"params": {"nowhere": {"kernel": np.ones(2, np.float32)}}}
    lost = create(stray, {"params": {"nowhere": {"kernel": G}}}, optax.sgd(1.0), jax.random.key(0))
    with pytest.raises(InputError, match="no stage owns 'nowhere/kernel'"):
        train_step(model, toy.loss, optax.sgd(1.0))(lost, toy.batch(model, rng), {})
