"""Forward passes over a whole set: metrics and predictions, every example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tl_jax.data import Passes
from tl_jax.model import Model
from tl_jax.parallel import ANYWHERE, Placement
from tl_jax.training.step import compiled_eval_step

Batch = Mapping[str, np.ndarray]


def evaluate(
    model: Model,
    task: Any,
    variables: Any,
    batches: Iterable[Batch],
    precision: str,
    placement: Placement = ANYWHERE,
    start: str | None = None,
) -> dict[str, Any]:
    """Loss and metrics over all examples of `batches`, in evaluation mode; sums are added in float64 on the host.

    `variables` lie where `placement` puts them, here and below. With a `start` the batches hold features. Metrics are
    of what the last stage writes, or of what the task's `report` makes of it.
    """
    how: dict[str, Any] = {"precision": precision, "placement": placement, "start": start}
    step = compiled_eval_step(model, task.total_loss, report=getattr(task, "report", None), **how)
    totals, loss, weight = task.new_metrics(), 0.0, 0.0
    for batch, found in _computed(batches, lambda batch: step(variables, batch)):
        outputs, sums = jax.device_get(found)
        totals = totals.merge(totals.update(outputs, batch))
        loss, weight = loss + float(sums["loss_sum"]), weight + float(sums["weight"])
    return {"loss": loss / max(weight, 1.0), **totals.result()}


def answer(
    model: Model, task: Any, variables: Any, batches: Passes, precision: str, placement: Placement = ANYWHERE
) -> np.ndarray:
    """The logits `[N, labels]` in the order of `batches.examples`, from the same compiled step as `evaluate`."""
    step = compiled_eval_step(model, task.total_loss, precision=precision, placement=placement)
    return _in_order(batches, lambda batch: step(variables, batch)[0]["logits"])


def _computed(batches: Iterable[Batch], compute: Callable[[Batch], Any]) -> Iterator[tuple[Batch, Any]]:
    """Each batch and what is computed of it, in order; the device has the next one before the host reads this one."""
    waiting: tuple[Batch, Any] | None = None
    for batch in batches:
        before, waiting = waiting, (batch, compute(batch))
        if before is not None:
            yield before
    if waiting is not None:
        yield waiting


def _in_order(batches: Any, compute: Callable[[Batch], Any]) -> np.ndarray:
    wanted = batches.examples.index
    place = {int(index): row for row, index in enumerate(wanted)}
    rows: np.ndarray | None = None
    for batch, found in _computed(batches, compute):
        real = batch["weights"] > 0
        values = np.asarray(found)[real]
        if rows is None:
            rows = np.zeros((len(wanted), *values.shape[1:]), values.dtype)
        rows[[place[int(i)] for i in batch["index"][real]]] = values
    assert rows is not None  # batches are never empty
    return rows
