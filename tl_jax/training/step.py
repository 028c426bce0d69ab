"""One training step: gradients of what trains, nothing else.

`train_step` is a pure function of (state, batch, hyper); `compiled_train_step` is the same, jitted, its state donated,
and built once per value of what is compiled in. Learning rate, decay, seed and number of steps are arguments, so
changing them compiles nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tl_jax.errors import InputError, did_you_mean
from tl_jax.groups import FROZEN
from tl_jax.model import Model
from tl_jax.parallel import ANYWHERE, Placement
from tl_jax.rules import paths
from tl_jax.stage import STATE_KEYS
from tl_jax.training.averaging import average
from tl_jax.training.modes import mode
from tl_jax.training.optimizer import OptimizerSpec
from tl_jax.training.partition import combine
from tl_jax.training.state import State, unpack
from tl_jax.trees import STATISTICS, by_path

Batch = Mapping[str, Any]
Loss = Callable[[Mapping[str, Any], Batch], tuple[jax.Array, jax.Array]]
Step = Callable[[State, Batch, Mapping[str, Any]], tuple[State, dict[str, jax.Array]]]
Report = Callable[[Mapping[str, Any], Batch], dict[str, jax.Array]]
Evaluation = Callable[[Mapping[str, Any], Batch], tuple[dict[str, jax.Array], dict[str, jax.Array]]]

# What matrix products are computed in; None leaves it to JAX ("bfloat16" models are cast by the caller).
_PRECISIONS = {"float32": "highest", "bfloat16": None}


def train_step(
    model: Model,
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    precision: str = "float32",
    placement: Placement = ANYWHERE,
    start: str | None = None,
) -> Step:
    """`(state, batch, hyper) -> (state, metrics)`, pure: jit it yourself, or take `compiled_train_step`.

    `loss(outputs, batch)` gives (sum over examples, weight), two float32 scalars; the gradient is that of sum / weight.
    `batch` holds the model's inputs beside whatever the loss reads; with `accumulate` > 1 each of its arrays has a
    leading axis of that length, and the micro-batches' sums and weights are added before the one division. `hyper` are
    the extra arguments of `tx.update` (`learning_rate`, `weight_decay`; {} for an optimiser that has its own), and
    `ema` where the state keeps an average (`tl_jax.training.averaging`).

    Stages below the first that reads a trainable leaf run in evaluation mode, and so do those with statistics but no
    trainable leaf; in somebody's own network so do the norms whose parameters are frozen. The run's key is folded with
    the step, and is the same for all micro-batches: dropout differs from example to example by their `noise`. With a
    `start`, a stage below which nothing trains, the batch holds what lies below it made of the examples.

    `metrics` are float32 `loss_sum`, `weight`, `grad_norm` (of the mean gradient, before any clip) and bool `finite`.
    Where loss or gradient is not finite the old state is returned whole, its step too: `state.step` counts updates
    done, and what follows starts from the last good state.

    With a `placement` on a mesh the state and the batch must lie as it puts them; the new state lies so again.
    """
    if accumulate < 1:
        raise InputError(f"accumulate must be at least 1, not {accumulate}")
    policy = policy_of(precision)
    tx = optax.with_extra_args_support(tx)

    def step(state: State, batch: Batch, hyper: Mapping[str, Any]) -> tuple[State, dict[str, jax.Array]]:
        trained, frozen = (paths(unpack(half, state.layout)) for half in (state.trainable, state.frozen))
        training = mode(model, trained, frozen, state.statistics)
        key = jax.random.fold_in(state.key, state.step)

        def loss_sum(trainable: Any, statistics: Any, micro: Batch) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            variables = placement.gathered(unpack(combine(trainable, state.frozen), state.layout))
            if statistics:
                variables = {**variables, STATISTICS: statistics}
            mutable = (STATISTICS,) if statistics else ()
            outputs = model.apply(variables, inputs_of(micro), start=start, key=key, mutable=mutable, **training)
            if statistics:
                outputs, changed = outputs
                statistics = changed[STATISTICS]
            total, weight = loss(outputs, micro)
            return total, (weight, statistics)

        def gradient(statistics: Any, micro: Batch) -> tuple[Any, Any]:
            (total, (weight, statistics)), grads = jax.value_and_grad(loss_sum, has_aux=True)(
                state.trainable, statistics, micro
            )
            return (total.astype(jnp.float32), weight.astype(jnp.float32), grads), statistics

        with policy():
            if accumulate == 1:
                sums, statistics = gradient(state.statistics, batch)
            else:
                sums, statistics = _accumulated(gradient, state, batch, accumulate)
            total, weight, grads = sums
            scale = 1 / jnp.where(weight > 0, weight, 1)
            grads = jax.tree.map(lambda g: g * scale, grads)
            norm = optax.tree.norm(grads)
            arguments = {name: value for name, value in hyper.items() if name != "ema"}
            updates, opt_state = tx.update(grads, state.opt_state, state.trainable, **arguments)
        trainable = optax.apply_updates(state.trainable, updates)
        new = replace(
            state,
            step=state.step + 1,
            trainable=trainable,
            average=average(state.average, trainable, hyper.get("ema"), state.step),
            opt_state=opt_state,
            statistics=statistics,
        )
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        metrics = {"loss_sum": total, "weight": weight, "grad_norm": norm, "finite": finite}
        return placement.kept(_kept(finite, new, state), combine(state.trainable, state.frozen)), metrics

    return step


def eval_step(
    model: Model,
    loss: Loss,
    *,
    precision: str = "float32",
    placement: Placement = ANYWHERE,
    start: str | None = None,
    report: Report | None = None,
) -> Evaluation:
    """`(variables, batch) -> (outputs, {"loss_sum", "weight"})` in evaluation mode, pure; `start` as in `train_step`.

    `outputs` are what the last stage writes (`logits`): the rest of the state is not worth its memory. Where even that
    is not, `report(state, batch)` says what is, arrays by name.
    """
    policy = policy_of(precision)

    def step(variables: Mapping[str, Any], batch: Batch) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        with policy():
            outputs = model.apply(placement.gathered(variables), inputs_of(batch), start=start)
            total, weight = loss(outputs, batch)
        written = {name: outputs[name] for name in model.stages[-1].writes}
        written = written if report is None else report(outputs, batch)
        return placement.whole(written), {"loss_sum": total, "weight": weight}

    return step


def compiled_train_step(
    model: Model,
    loss: Loss,
    spec: OptimizerSpec,
    labels: Any,
    *,
    accumulate: int = 1,
    precision: str = "float32",
    placement: Placement = ANYWHERE,
    start: str | None = None,
) -> Any:
    """`train_step` with `spec.build(labels)`, jitted, its state donated: one jitted function per value of all these.

    The batch is given as host arrays; where there is a mesh it is split over it on the way.
    Give `hyper` as numpy float32 scalars: Python floats have a type of their own and compile again. A `loss` that is a
    function or a method of a frozen dataclass (a task) compares by value; a lambda is a new one each time.
    """
    key = _hashable(labels)
    return _compiled_train_step(model, *_by_value(loss), spec, key, accumulate, precision, placement, start)


def compiled_eval_step(
    model: Model,
    loss: Loss,
    *,
    precision: str = "float32",
    placement: Placement = ANYWHERE,
    start: str | None = None,
    report: Report | None = None,
) -> Any:
    """`eval_step`, jitted: one jitted function per value of its arguments. The batch is given as host arrays."""
    return _compiled_eval_step(model, *_by_value(loss), precision, placement, start, *_by_value(report))


@lru_cache(maxsize=64)
def _compiled_train_step(
    model: Model,
    loss: Loss,
    owner: Any,
    spec: OptimizerSpec,
    labels: Any,
    accumulate: int,
    precision: str,
    placement: Placement,
    start: str | None,
) -> Any:
    tx = spec.build(dict(labels))  # by path, as good as nested: labels are matched by path
    how: dict[str, Any] = {"precision": precision, "placement": placement, "start": start}
    step = train_step(model, _bound(loss, owner), tx, accumulate=accumulate, **how)
    return placement.fed(jax.jit(step, donate_argnums=0), axis=int(accumulate > 1))


@lru_cache(maxsize=64)
def _compiled_eval_step(
    model: Model,
    loss: Loss,
    owner: Any,
    precision: str,
    placement: Placement,
    start: str | None,
    report: Report | None,
    reporter: Any,
) -> Any:
    how: dict[str, Any] = {"precision": precision, "placement": placement, "start": start}
    step = eval_step(model, _bound(loss, owner), report=report and _bound(report, reporter), **how)
    return placement.fed(jax.jit(step))


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What of a batch the model reads; the rest (targets, weights, index) is the task's."""
    return {name: batch[name] for name in STATE_KEYS if name in batch}


def _accumulated(gradient: Any, state: State, batch: Batch, accumulate: int) -> tuple[Any, Any]:
    """Sums of loss, weight and gradient over the leading axis of `batch`; statistics go from one to the next."""
    for name, array in batch.items():
        if array.shape[:1] != (accumulate,):
            raise InputError(f"{accumulate} micro-batches need that leading axis; {name!r} has {list(array.shape)}")

    def add(carry: Any, micro: Batch) -> tuple[Any, None]:
        sums, statistics = carry
        more, statistics = gradient(statistics, micro)
        return (jax.tree.map(jnp.add, sums, more), statistics), None

    zero = jnp.zeros((), jnp.float32)
    start = (zero, zero, jax.tree.map(jnp.zeros_like, state.trainable))
    (sums, statistics), _ = jax.lax.scan(add, (start, state.statistics), dict(batch))
    return sums, statistics


def _kept(finite: jax.Array, new: State, old: State) -> State:
    return jax.tree.map(lambda n, o: n if n is o else jnp.where(finite, n, o), new, old)


def policy_of(precision: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What makes a context in which matrix products are computed as `precision` says."""
    if precision not in _PRECISIONS:
        raise InputError(f"unknown precision {precision!r}{did_you_mean(precision, _PRECISIONS)}")
    highest = _PRECISIONS[precision]
    return contextlib.nullcontext if highest is None else lambda: jax.default_matmul_precision(highest)


def _hashable(labels: Any) -> tuple[tuple[str, Any], ...]:
    """Labels as a key; without the groups' names, which nothing compiled sees: methods alike but for them share it."""
    return tuple((p, g if g is FROZEN else replace(g, name="")) for p, g in by_path(labels).items())


def _by_value(loss: Any) -> tuple[Any, Any]:
    """A bound method as its function and its owner: methods of equal owners do not compare equal."""
    return getattr(loss, "__func__", loss), getattr(loss, "__self__", None)


def _bound(loss: Any, owner: Any) -> Any:
    return loss if owner is None else MethodType(loss, owner)
