"""Where the milliseconds of a training step go, against the matrix products that it cannot do without.

    make bench           or            python benchmarks/step.py

A step of full fine-tuning of MiniLM on 32 sentences of SST-2, packed as in training; each part is compiled by itself
and timed alone, parts and rounds alternating. docs/performance.md is written.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import model as minilm  # noqa: E402  the weights that the demo fetches

from tl_jax.heap import keep_freed_memory  # noqa: E402

keep_freed_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from tl_jax import preparation  # noqa: E402
from tl_jax.model import Model  # noqa: E402
from tl_jax.training.optimizer import decay_labels  # noqa: E402
from tl_jax.training.state import create  # noqa: E402
from tl_jax.training.step import compiled_train_step, inputs_of  # noqa: E402

DATA = ROOT / os.environ.get("TL_JAX_DATA", "../shared/data") / "t_sst2"
ROUNDS, WARM = 9, 2


def without_dropout(model: Model) -> Model:
    """The same chain with every rate of dropout 0."""
    from dataclasses import replace

    stages = []
    for stage in model.stages:
        module = stage.module
        if hasattr(module, "config"):
            quiet = replace(module.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            module = module.clone(config=quiet)
        elif hasattr(module, "dropout"):
            module = module.clone(dropout=0.0)
        stages.append(replace(stage, module=module))
    return replace(model, stages=tuple(stages))


def products(config: Any, rows: int, width: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of all matrix products of a step, forward and backward: each is two more of its size backward."""
    d, wide, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    tokens, each = rows * width, d // heads
    layer = [((tokens, d), (d, d))] * 4 + [((tokens, d), (d, wide)), ((tokens, wide), (wide, d))]
    layer += [
        ((rows * heads, width, each), (rows * heads, each, width)),
        ((rows * heads, width, width), (rows * heads, width, each)),
    ]
    back = [
        product
        for (a, b) in layer
        for product in ((((*a[:-1], b[-1])), (*b[:-2], b[-1], b[-2])), ((*a[:-2], a[-1], a[-2]), ((*a[:-1], b[-1]))))
    ]
    return (layer + back) * config["num_hidden_layers"]


def main() -> None:
    """Measures and prints, and writes the page."""
    asked = preparation.request(str(minilm.folder()), str(DATA), {"method": "full", "epochs": 1, "out": "runs/step"})
    job = preparation.prepare(asked, None, lambda text: None)
    plan, task, recipe = job.assembly.plan, job.assembly.task, job.recipe
    batch = job.train.batch(0)
    labels = decay_labels(plan.labels)
    key = jax.random.key(0)
    hyper = recipe.hyper(1e-5)
    spec = recipe.spec
    tx = spec.build(labels)
    rng = np.random.default_rng(0)
    rows, width = job.train.shapes[0]

    def stepping(model: Model) -> Callable[[], Any]:
        step = compiled_train_step(model, task.total_loss, spec, labels)
        state = [create(plan.variables, labels, tx, key)]

        def run() -> Any:
            state[0], metrics = step(state[0], batch, hyper)
            return metrics["loss_sum"], jax.tree.leaves(state[0].trainable)[0]

        return run

    def loss(params: Any, train: bool) -> Any:
        how = {"train_from": "embeddings", "key": key} if train else {}
        return task.total_loss(plan.model.apply({"params": params}, inputs_of(batch), **how), batch)[0]

    params = jax.device_put(plan.variables["params"])
    policy = jax.default_matmul_precision("highest")
    forward = jax.jit(lambda params: loss(params, True))
    evaluated = jax.jit(lambda params: loss(params, False))
    gradient = jax.jit(jax.grad(lambda params: loss(params, True)))
    grads = gradient(params)
    state = create(plan.variables, labels, tx, key)

    @jax.jit
    def update(grads: Any, opt_state: Any, params: Any) -> Any:
        updates, after = tx.update(grads, opt_state, {"params": params}, **hyper)
        return jax.tree.map(jnp.add, params, updates["params"]), after

    pairs = products(plan.model.info.config, rows, width)
    arrays = [
        (jnp.asarray(rng.normal(size=a), jnp.float32), jnp.asarray(rng.normal(size=b), jnp.float32)) for a, b in pairs
    ]
    multiply = jax.jit(jnp.matmul)
    flops = sum(2 * int(np.prod(a)) * b[-1] for a, b in pairs)

    parts: dict[str, Callable[[], Any]] = {
        "a step": stepping(plan.model),
        "a step without dropout": stepping(without_dropout(plan.model)),
        "forward and backward": lambda: gradient(params),
        "forward": lambda: forward(params),
        "forward, evaluation mode": lambda: evaluated(params),
        "clip, AdamW, update": lambda: update({"params": grads}, state.opt_state, params),
        "its matrix products alone": lambda: [multiply(a, b) for a, b in arrays],
    }
    took: dict[str, list[float]] = {name: [] for name in parts}
    with policy:
        for turn in range(ROUNDS + WARM):
            for name, part in parts.items():
                began = time.perf_counter()
                jax.block_until_ready(part())
                if turn >= WARM:
                    took[name].append(1e3 * (time.perf_counter() - began))
    floor = median(took["its matrix products alone"])
    lines = [f"| 32 sentences in {rows} × {width} tokens | ms, median (range) | of the products |", "|---|---|---|"]
    for name, times in took.items():
        middle = median(times)
        lines.append(f"| {name} | {middle:.0f} ({min(times):.0f} to {max(times):.0f}) | {middle / floor:.2f} |")
    said = f"The products are {flops / 1e9:.1f} GFLOP, {flops / floor / 1e6:.0f} GFLOP/s on {os.cpu_count()} cores."
    print("\n".join([*lines, "", said]))
    head = """# Performance

Printed by `python benchmarks/step.py`: what each part of a training step takes, compiled by itself.

"""
    (ROOT / "docs" / "performance.md").write_text(head + "\n".join([*lines, "", said, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
