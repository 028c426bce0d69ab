"""Forward passes over a whole set: metrics, predictions and features, every example exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from tl_jax.model import STATE_KEYS, Model
from tl_jax.training.step import compiled_eval_step

Batch = Mapping[str, np.ndarray]


@partial(jax.jit, static_argnames=("model", "stop", "key", "precision"))
def _forward(model: Model, stop: str | None, key: str, precision: str, variables: Any, inputs: Any) -> Any:
    with jax.default_matmul_precision("highest" if precision == "float32" else None):  # as the step has it
        return model.apply(variables, inputs, stop=stop)[key]


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model reads; the rest (targets, weights, index) is the task's."""
    return {key: value for key, value in batch.items() if key in STATE_KEYS}


def evaluate(model: Model, task: Any, variables: Any, batches: Iterable[Batch], precision: str) -> dict[str, Any]:
    """Loss and metrics over all examples of `batches`, in evaluation mode; sums are added in float64 on the host."""
    step = compiled_eval_step(model, task.total_loss, precision=precision)
    totals, loss, weight = task.new_metrics(), 0.0, 0.0
    for batch in batches:
        outputs, sums = jax.device_get(step(variables, batch))
        totals = totals.merge(totals.update(outputs, batch))
        loss, weight = loss + float(sums["loss_sum"]), weight + float(sums["weight"])
    return {"loss": loss / max(weight, 1.0), **totals.result()}


def gather(
    model: Model, variables: Any, batches: Any, key: str, *, stop: str | None = None, precision: str = "float32"
) -> np.ndarray:
    """The state's `key` before the stage `stop` (None: at the end), one row per example `[N, …]`.

    The rows are in the order of `batches.examples`.
    """
    wanted = batches.examples.index
    place = {int(index): row for row, index in enumerate(wanted)}
    rows: np.ndarray | None = None
    for batch in batches:
        real = batch["weights"] > 0
        values = np.asarray(_forward(model, stop, key, precision, variables, inputs_of(batch)))[real]
        if rows is None:
            rows = np.zeros((len(wanted), *values.shape[1:]), values.dtype)
        rows[[place[int(i)] for i in batch["index"][real]]] = values
    assert rows is not None  # batches are never empty
    return rows
