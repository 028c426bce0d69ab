"""From a plan and encoded examples to trained leaves: solve the head, or step, or both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from tl_jax.data import Examples, TrainBatches
from tl_jax.methods import Plan
from tl_jax.model import Model
from tl_jax.parallel import ANYWHERE, Placement
from tl_jax.training.ahead import Ahead
from tl_jax.training.choosing import standardised
from tl_jax.training.convex import logistic_regression
from tl_jax.training.defaults import epochs_between
from tl_jax.training.events import Events
from tl_jax.training.loop import Loop, Memory
from tl_jax.training.optimizer import decay_labels
from tl_jax.training.phases import labels_in, phase_at, phases, starts
from tl_jax.training.prefixes import Prefixes
from tl_jax.training.recipe import Recipe
from tl_jax.training.snapshot import Restored
from tl_jax.training.sources import Check, Source, Sources, starts_of
from tl_jax.training.state import create, from_flat, thaw, to_flat
from tl_jax.training.state import variables as variables_of
from tl_jax.training.step import compiled_train_step
from tl_jax.training.store import Store

Arrays = Mapping[str, Any]


def fit(
    plan: Plan,
    model: Model,
    task: Any,
    recipe: Recipe,
    train: TrainBatches,
    validation: Examples | None,
    prefixes: Prefixes,
    *,
    stored: Callable[[Any], Arrays],
    checkpoints: Store,
    events: Events,
    stop_asked: Callable[[], bool],
    where: Callable[[int], str],
    placement: Placement = ANYWHERE,
) -> dict[str, Any]:
    """Train the plan; the best leaves, as `stored(variables)` picks them, end in the checkpoints' best slot.

    `model` is the plan's in the precision that computes, `prefixes` what is frozen of it. Goes on from the last good
    checkpoint if there is one. Returns what happened: steps, the best one, its metrics on `validation` where
    there is one, seconds. Raises `Diverged` and `Interrupted`.
    """
    began = time.monotonic()
    sources = Sources(model, task, train, validation, prefixes)

    def solved() -> tuple[dict[str, Any], Check | None]:
        pooled, check = sources.of_solved("head")
        return _solved(plan, task, pooled, train.examples, events), check

    if not plan.stepped:
        events.started(total=0, resumed=0)
        variables, check = solved()
        metrics = {} if check is None else check(placement.variables(variables))
        if metrics:
            events.evaluated(step=0, epoch=0.0, metrics=metrics, best=True)
        checkpoints.save_best(0, stored(variables), {})
        seconds = time.monotonic() - began
        record = {"steps": 0, "best_step": 0, "stopped_early": False, "seconds": seconds}
        return record if check is None else {"validation": metrics, **record}

    labels = decay_labels(plan.labels)
    total = recipe.total(train.steps_per_epoch)
    phase_starts = starts(phases(labels), total, train.steps_per_epoch)
    trained = [labels_in(labels, phase) for phase in range(len(phase_starts))]
    passes = [(end - start) / train.steps_per_epoch for start, end in pairwise([*phase_starts, total])]
    begins = starts_of(model, trained, passes)

    @lru_cache(maxsize=2)  # a source serves one phase, then the next
    def source(phase: int) -> Source:
        return sources.of(begins[phase])

    def validate(i: int, state: Any) -> Mapping[str, Any]:
        check = source(phase_at(phase_starts, max(0, i - 1))).check
        assert check is not None
        return check(variables_of(state))

    def step(phase: int) -> Any:
        return compiled_train_step(
            model,
            task.total_loss,
            recipe.spec,
            trained[phase],
            accumulate=recipe.accumulate,
            precision=recipe.precision,
            placement=placement,
            start=source(phase).start,
        )

    def thawed(state: Any, phase: int) -> Any:
        more = thaw(state, trained[phase], recipe.spec.build(trained[phase]))
        return placement.state(more, variables_of(more))

    memory, found = _resumed(checkpoints, events)
    events.started(total=total, resumed=0 if found is None else found.step)
    phase = phase_at(phase_starts, max(0, found.step - 1)) if found else 0
    variables = placement.variables(solved()[0] if plan.solver is not None and found is None else plan.variables)
    tx = recipe.spec.build(trained[phase])
    state = create(variables, trained[phase], tx, _training_key(recipe.seed), averaged=recipe.ema > 0)
    state = placement.state(state, variables)
    if found is not None:
        state = from_flat(state, found.arrays)

    def made(i: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        batch = source(phase_at(phase_starts, i)).train.batch(i)
        return batch, placement.batch(batch, axis=int(recipe.accumulate > 1))

    def phase_end(i: int) -> int:
        return next((start for start in phase_starts if start > i), total)

    with Ahead(made, phase_end) as batch:
        loop = Loop(
            step=step,
            starts=phase_starts,
            thaw=thawed,
            batch=batch,
            rate=recipe.rates(total),
            hyper=recipe.hyper,
            total=total,
            per_epoch=train.steps_per_epoch,
            shapes=len(train.shapes) * len(phase_starts),
            validate=None if validation is None else validate,
            validate_every=1 if validation is None else epochs_between(len(train.examples), len(validation)),
            monitor=task.monitor,
            patience=recipe.patience,
            snapshot=to_flat,
            result=lambda state: stored(variables_of(state)),
            checkpoints=checkpoints,
            events=events,
            stop_asked=stop_asked,
            where=where,
        )
        if plan.solver is not None and found is None and validation is not None:
            loop.evaluate(0, state, memory)  # where steps only make the solved head worse, it is the result
        state, memory, compiled = loop.run(state, memory)
    steps, seconds = int(state.step), time.monotonic() - began
    events.finished(step=steps, seconds=seconds)
    return {
        **({} if validation is None else {"validation": memory.best_metrics}),
        "steps": steps,
        "best_step": memory.best_step if validation is not None else steps,
        "stopped_early": memory.done,
        "seconds": seconds,
        "shapes_compiled": len(compiled),
        "compile_seconds": sum(compiled),
    }


def _resumed(checkpoints: Store, events: Events) -> tuple[Memory, Restored | None]:
    """The last good checkpoint and what the loop remembered then; a fresh memory where there is none."""
    found = checkpoints.restore()
    if found is None:
        return Memory(), None
    memory = Memory(**found.meta)
    best = checkpoints.restore_best() if memory.best_step >= 0 else found
    if best is None or best.step < memory.best_step:
        events.message("without the best checkpoint training starts from the beginning; it ends the same")
        checkpoints.clear()
        return Memory(), None
    events.message(f"resuming after step {found.step}")
    return memory, found


def _training_key(seed: int) -> jax.Array:
    """Apart from the key that draws first values."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def _solved(plan: Plan, task: Any, pooled: Any, examples: Examples, events: Events) -> dict[str, Any]:
    """The plan's variables with the head solved on `pooled` `[N, D]`, the features of the training examples."""
    assert plan.solver is not None
    x = np.asarray(pooled, np.float64)
    mean, deviation = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if plan.solver.standardize:
        x, mean, deviation = standardised(x)
    kernel, bias, convergence = logistic_regression(x, examples.targets, len(task.labels), strength=plan.solver.C)
    kernel = kernel / deviation[:, None]
    bias = bias - mean @ kernel
    events.message(f"head solved in {convergence.iterations} iterations")
    head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    params = {**plan.variables["params"], "head": head}
    return {**plan.variables, "params": params}
