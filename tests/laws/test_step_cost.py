"""Law 5 for the plans of methods on BERT: the compiled step costs what its trainable part needs.

The reference is written out: `jax.grad` of the loss over the trainable leaves alone, one clip, Adam, decay. Chains with
other seams, and that the step computes what the reference does, are tested with `train_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny as files
from tests.tiny import METHODS, Tiny
from tl_jax import data
from tl_jax.groups import FROZEN
from tl_jax.rules import map_paths, paths
from tl_jax.training.examples import prepare
from tl_jax.training.flops import flops
from tl_jax.training.optimizer import OptimizerSpec, decay_labels
from tl_jax.training.phases import labels_in, phases
from tl_jax.training.state import create
from tl_jax.training.step import compiled_train_step, inputs_of

SPEC = OptimizerSpec()
HYPER = {"learning_rate": np.float32(1e-3), "weight_decay": np.float32(0.01)}


def reference(plan: Any, task: Any, trained: set[str], accumulate: int) -> Any:
    cut = plan.model.names[min(plan.model.first_use(path) for path in trained)]
    decays = {path: label.decay != 0 for path, label in paths(decay_labels(plan.labels)).items() if path in trained}
    rates = {path: -1e-3 * label.lr for path, label in paths(plan.labels).items() if path in trained}
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.01, mask=lambda _: decays)
    )

    def step(leaves: Any, moments: Any, rest: Any, key: Any, batch: Any) -> Any:
        def loss(leaves: Any, micro: Any) -> Any:
            variables = map_paths(lambda path, _: leaves.get(path, rest.get(path)), plan.variables)
            with jax.default_matmul_precision("highest"):
                outputs = plan.model.apply(variables, inputs_of(micro), train_from=cut, key=key)
            return task.total_loss(outputs, micro)

        grad = jax.value_and_grad(loss, has_aux=True)
        if accumulate == 1:
            (total, weight), grads = grad(leaves, batch)
        else:

            def add(sums: Any, micro: Any) -> Any:
                (total, weight), grads = grad(leaves, micro)
                return jax.tree.map(jnp.add, sums, (total, weight, grads)), None

            zeros = (0.0, 0.0, jax.tree.map(jnp.zeros_like, leaves))
            (total, weight, grads), _ = jax.lax.scan(add, zeros, batch)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.tree.norm(grads)
        updates, moved = tx.update(grads, moments, leaves)
        updates = {path: rates[path] * update for path, update in updates.items()}
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        new = (optax.apply_updates(leaves, updates), moved)
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, (leaves, moments)), total, weight, norm, finite

    return step, tx


# Of a method with phases each is a case.
CASES = [(m, phase) for m in METHODS if m != "probe" for phase in (range(4) if m == "gradual_unfreezing" else (0,))]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("method", "phase"), CASES)
def test_a_step_costs_what_its_trainable_part_needs(
    method: str, phase: int, accumulate: int, tiny: Tiny, tuned: Callable[[str], Any]
) -> None:
    run = tuned(method)
    plan, task = run.plan, run.task
    assert phases(plan.labels) == max(p for m, p in CASES if m == method) + 1
    now = labels_in(plan.labels, phase)
    dataset = data.open(files.messages(16))["train"]
    columns = data.infer_columns(dataset)
    examples = prepare(dataset, columns, task.labels, run.model.processor, 40).examples
    batch = data.BucketedBatches(examples, 16, 0, accumulate=accumulate).batch(0)

    labels = decay_labels(now)
    state = create(plan.variables, labels, SPEC.build(labels), jax.random.key(0))
    compiled = compiled_train_step(run.model, task.total_loss, SPEC, labels, accumulate=accumulate)
    ours = flops(compiled, state, batch, HYPER)

    leaves = {p: jnp.asarray(leaf) for p, leaf in paths(plan.variables).items()}
    trained = {path for path, label in paths(now).items() if label is not FROZEN}
    step, tx = reference(plan, task, trained, accumulate)
    chosen, rest = {p: leaves[p] for p in trained}, {p: leaves[p] for p in leaves if p not in trained}
    moments = tx.init(chosen)
    theirs = flops(step, chosen, moments, rest, jax.random.key(0), batch)
    print(f"{method}, accumulate {accumulate}: {ours:,} against {theirs:,} = {ours / theirs:.4f}")
    assert abs(ours / theirs - 1) <= 0.02

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert size == 2 * sum(leaf.nbytes for leaf in chosen.values())
    assert any(isinstance(part, optax.transforms.PartitionState) for part in state.opt_state)
    if method == "lora:rank=4" and accumulate == 1:  # against full fine-tuning of the same model
        full = tuned("full").plan
        whole, tx = reference(full, task, {p for p, label in paths(full.labels).items() if label is not FROZEN}, 1)
        everything = {p: jnp.asarray(leaf) for p, leaf in paths(full.variables).items()}
        assert ours < 0.85 * flops(whole, everything, tx.init(everything), {}, jax.random.key(0), batch)
