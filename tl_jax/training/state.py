"""What a training step maps to its successor, how it starts, and how it lies in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tl_jax.errors import InputError, did_you_mean
from tl_jax.rules import paths
from tl_jax.training.optimizer import promote
from tl_jax.training.partition import combine, partition
from tl_jax.trees import STATISTICS, by_path, path_name

_LAYOUTS = ("unrolled",)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("step", "trainable", "frozen", "opt_state", "key", "statistics", "average"),
    meta_fields=("layout",),
)
@dataclass(frozen=True)
class State:
    """A pytree; a step donates it, so its arrays are its own (`create` and `from_flat` see to that).

    `step` i32 counts the updates done. `trainable` and `frozen` are the halves of `{"params": …, "adapters": …}` with
    None where the other has the leaf; trainable leaves are float32, frozen ones as they were loaded. `key` is the key
    of the run, folded with `step` for each. `statistics` holds what norms keep (`batch_stats`), {} without such norms.
    `average` is the moving average of `trainable`, None where none is kept.
    """

    step: jax.Array
    trainable: Any
    frozen: Any
    opt_state: Any
    key: jax.Array
    statistics: Any
    average: Any = None
    layout: str = field(default="unrolled")


def create(
    variables: Mapping[str, Any],
    labels: Any,
    tx: optax.GradientTransformation,
    key: jax.Array,
    *,
    averaged: bool = False,
) -> State:
    """The state before the first step; with `averaged` it keeps a moving average of what trains.

    `variables` are `{collection: tree}` of arrays or numpy arrays, copied to the device; `labels` has a `Group` or
    `FROZEN` for each leaf of every collection but `batch_stats`; `key` is a typed key (`jax.random.key(seed)`).
    Raises `InputError` where labels do not fit, nothing trains, or a leaf cannot be held (float64 without x64) or
    trained (integers).
    """
    layout = "unrolled"
    variables = dict(variables)
    statistics = variables.pop(STATISTICS, {})
    trainable, frozen = partition(variables, labels)
    if not jax.tree.leaves(trainable):
        raise InputError("nothing trains: every label is FROZEN")
    for path, leaf in paths({**variables, STATISTICS: statistics}).items():
        if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise InputError(f"{path} is {leaf.dtype}, which JAX would round: convert it, or set jax_enable_x64")
    for path, leaf in paths(trainable).items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(f"{path} is {leaf.dtype} and cannot train: label it FROZEN")
    trainable, frozen, statistics, key = own((promote(trainable), frozen, statistics, key))
    trainable, frozen = pack(trainable, layout), pack(frozen, layout)
    step = jnp.zeros((), jnp.int32)
    average = own(trainable) if averaged else None
    return State(step, trainable, frozen, own(tx.init(trainable)), key, statistics, average, layout)


def thaw(state: State, labels: Any, tx: optax.GradientTransformation) -> State:
    """The state that goes on with more leaves training, those that `labels` adds; `tx` is built from `labels`.

    Leaves that trained before keep their moments, by path; those that thaw begin with fresh ones, a count of their own
    included, so that their first update is as large as a first update is.
    """
    trainable, frozen = partition(unpack(combine(state.trainable, state.frozen), state.layout), labels)
    trainable = promote(trainable)
    trainable, frozen = pack(trainable, state.layout), pack(frozen, state.layout)
    average = None if state.average is None else _carried(state.average, own(trainable))
    opt_state = _carried(state.opt_state, own(tx.init(trainable)))
    return replace(state, trainable=trainable, frozen=frozen, opt_state=opt_state, average=average)


def variables(state: State) -> dict[str, Any]:
    """`{"params": …, "adapters": …, "batch_stats": …}` as `Model.apply` takes them; no array is copied.

    Where the state keeps an average, that stands in for what trains: it is what a run evaluates and keeps.
    """
    best = state.trainable if state.average is None else state.average
    whole = unpack(combine(best, state.frozen), state.layout)
    return {**whole, STATISTICS: state.statistics} if state.statistics else whole


def pack(tree: Any, layout: str) -> Any:
    """The tree as `layout` stores it. "unrolled" stores every leaf by itself, as rules, files and labels see it."""
    return _laid_out(tree, layout)


def unpack(tree: Any, layout: str) -> Any:
    """The inverse of `pack`."""
    return _laid_out(tree, layout)


def _laid_out(tree: Any, layout: str) -> Any:
    if layout not in _LAYOUTS:
        raise InputError(f"unknown layout {layout!r}{did_you_mean(layout, _LAYOUTS)}")
    return tree


def to_flat(state: State) -> dict[str, Any]:
    """`{name: array}` of what a checkpoint holds: everything but the frozen leaves.

    `trainable/<path>`, `average/<path>` and `statistics/<path>` by the paths that rules see, `opt_state/<path>` by
    JAX's, `step`, and `key`, the key's raw data.
    """
    trees = {"trainable": state.trainable, "opt_state": state.opt_state, "statistics": state.statistics}
    if state.average is not None:
        trees["average"] = state.average
    flat = {_name(prefix, path): leaf for prefix, tree in trees.items() for path, leaf in by_path(tree).items()}
    return {**flat, "step": state.step, "key": jax.random.key_data(state.key)}


def variables_in(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{path: array}` of the variables in what `to_flat` made, those of `variables`: the average where there is one."""
    best = "average" if any(name.startswith("average/") for name in flat) else "trainable"
    split = [(*name.partition("/")[::2], leaf) for name, leaf in flat.items()]
    trained = {path: leaf for tree, path, leaf in split if tree == best}
    return trained | {f"{STATISTICS}/{path}": leaf for tree, path, leaf in split if tree == "statistics"}


def from_flat(template: State, flat: Mapping[str, Any]) -> State:
    """`template` (a fresh state of the same plan) with the values of `flat`, as `to_flat` named them.

    Frozen leaves are the template's. Raises `InputError` listing every array that is missing, extra or of another shape
    or dtype. The arrays are copied, so the next donating step reuses their buffers: memory that a reader of checkpoints
    made (Orbax, numpy) cannot be donated, and a resumed run would need twice its state.
    """
    expected = to_flat(template)
    faults = [f"missing: {name}" for name in expected if name not in flat]
    faults += [f"not of this state: {name}" for name in flat if name not in expected]
    for name, leaf in expected.items():
        if name in flat and (_kind(leaf) != _kind(flat[name])):
            faults.append(f"{name} is {_kind(flat[name])}, not {_kind(leaf)}")
    if faults:
        raise InputError("the checkpoint does not fit the plan:\n  " + "\n  ".join(faults))
    flat = own({name: _placed(flat[name], like) for name, like in expected.items()})
    key = jax.random.wrap_key_data(flat["key"], impl=jax.random.key_impl(template.key))
    return replace(
        template,
        step=flat["step"],
        trainable=_filled("trainable", template.trainable, flat),
        opt_state=_filled("opt_state", template.opt_state, flat),
        statistics=_filled("statistics", template.statistics, flat),
        average=_filled("average", template.average, flat),
        key=own(key),
    )


def _carried(before: Any, fresh: Any) -> Any:
    """`fresh` with the leaves that `before` has under the same path."""
    known = by_path(before)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: known.get(path_name(path), leaf), fresh)


def own(tree: Any) -> Any:
    """A copy whose buffers XLA made itself, so that they can be donated and nobody else's are."""
    return jax.tree.map(_copy, tree)


_copy = jax.jit(jnp.copy)  # leaf by leaf: no second copy of the whole tree is ever alive


def _name(prefix: str, path: str) -> str:
    return f"{prefix}/{path.removeprefix('params/')}"


def _filled(prefix: str, tree: Any, flat: Mapping[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[_name(prefix, path_name(path))], tree)


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _placed(value: Any, like: jax.Array) -> Any:
    # An array put on a device by name compiles apart from one that lies there by default: keep to the template.
    return jax.device_put(value, like.sharding) if like.committed else value
