"""One optax transformation for a labelled tree: a global clip over what trains, then `multi_transform` over its groups.

    labels = match(rules, params)
    tx = optimizer(labels, learning_rate=1e-3)                    # somebody's own loop over the full tree
    tx = optimizer(labels)                                        # ours: update(…, learning_rate=, weight_decay=)
    tx = optimizer(labels, transforms={"head": optax.adam(1e-2)}) # the user's own transformations, by group name

Leaves share an optimiser state by kind, by whether they decay at all and by when they thaw, not by group: rates and
decays that differ from leaf to leaf are a tree of multipliers, so 26 layer-wise rates lower and compile as fast as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tl_jax.errors import InputError, did_you_mean
from tl_jax.groups import FROZEN, Group
from tl_jax.rules import match, optional
from tl_jax.training.partition import align, combine, partition
from tl_jax.trees import by_path, path_name

# Direction of the update before decay and rate, and whether the kind decays its weights.
_KINDS: dict[str, tuple[Callable[[], optax.GradientTransformation], bool]] = {
    "adamw": (lambda: optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8), True),
    "adam": (lambda: optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8), False),
    "sgd": (lambda: optax.trace(decay=0.9), True),
    "lion": (lambda: optax.scale_by_lion(b1=0.9, b2=0.99), True),
}
KINDS = tuple(_KINDS)
_FROZEN = "frozen"

# Biases and norm scales do not decay; the leaves of adapters do, whatever they are called.
NO_DECAY = optional([(r"adapters/.*", 1.0), (r"(.*/)?(bias|scale)", 0.0)])


def decay_labels(labels: Any) -> Any:
    """The same labels with decay 0 for biases and norm scales (`NO_DECAY`); adapters and `FROZEN` stay as they are."""
    factors = match(NO_DECAY, labels, default=1.0)
    return jax.tree.map(lambda g, f: g if g is FROZEN else replace(g, decay=g.decay * f), labels, factors)


@dataclass(frozen=True)
class OptimizerSpec:
    """What of an optimiser is compiled into a step; rate and decay are arguments of the step instead."""

    kind: str = "adamw"
    clip: float | None = 1.0

    def build(self, labels: Any) -> optax.GradientTransformationExtraArgs:
        """`optimizer(labels)` of this kind and clip, its rate and decay taken as extra arguments."""
        return optimizer(labels, kind=self.kind, clip=self.clip)


def optimizer(
    labels: Any,
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
    weight_decay: float | None = None,
    kind: str = "adamw",
    clip: float | None = 1.0,
    transforms: Mapping[str, optax.GradientTransformation] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation for trees labelled by `labels` (a `Group` or `FROZEN` at each leaf).

    It takes the trainable half of a partitioned tree (None holes) and the full tree alike: there, frozen leaves get
    zero updates and no state, and the clip counts trainable gradients only.

    `learning_rate` is a number, an optax schedule, or None: then `update(grads, state, params, learning_rate=,
    weight_decay=)` takes both as (traced) arguments. `weight_decay` (decoupled: Loshchilov & Hutter 2019) left None is
    that argument, or 0 where the learning rate is given. A group's `lr` and `decay` multiply them. `kind` is `adamw`,
    `adam` (which does not decay), `sgd` (momentum 0.9) or `lion`; moments are float32 for leaves of less.
    `clip` bounds the global norm of the trainable gradients; None does not clip.

    `transforms` gives each group, by name, the user's own transformation in place of all that. It makes its own rate
    and decay; a group's `lr` multiplies what it returns.

    Raises `InputError` for an unknown kind, a group without transformation, a transformation without group, arguments
    that contradict each other.
    """
    groups = {path: label for path, label in by_path(labels).items() if label is not FROZEN}
    if transforms is None:
        branches, names = _by_kind(kind, groups, learning_rate, weight_decay)
    else:
        if learning_rate is not None or weight_decay is not None:
            raise InputError("transforms make their own learning rate and weight decay: do not give both")
        branches, names = _by_name(transforms, groups)

    def name_leaves(tree: Any) -> Any:
        aligned = align(labels, tree)
        return jax.tree_util.tree_map_with_path(lambda path, _: names.get(path_name(path), _FROZEN), aligned)

    chain = [_clip(clip, labels)] if clip is not None else []
    return optax.chain(*chain, optax.multi_transform({**branches, _FROZEN: optax.set_to_zero()}, name_leaves))


def promote(tree: Any) -> Any:
    """`tree` with floating leaves narrower than float32 made float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if _narrow(x) else x, tree)


def _narrow(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4


# The transformations of each branch by name, and the branch of each trainable path.
Branches = tuple[dict[str, optax.GradientTransformation], dict[str, str]]


def _by_kind(
    kind: str, groups: Mapping[str, Group], learning_rate: optax.ScalarOrSchedule | None, weight_decay: float | None
) -> Branches:
    if kind not in _KINDS:
        raise InputError(f"unknown optimiser {kind!r}{did_you_mean(kind, _KINDS)}")
    if weight_decay is not None and not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight decay must be a number ≥ 0, not {weight_decay}")
    direction, decays = _KINDS[kind]
    if weight_decay and not decays:
        raise InputError(f"{kind} does not decay weights; did you mean {kind + 'w'!r}?")
    if learning_rate is not None and weight_decay is None:
        weight_decay = 0.0
    rate = _rate_argument() if learning_rate is None else optax.scale_by_learning_rate(learning_rate)
    multiply = _multiply({path: group.lr for path, group in groups.items()})
    decay = _decay({path: group.decay for path, group in groups.items()}, weight_decay)
    with_decay = optax.chain(direction(), decay, multiply, rate)
    without = optax.chain(direction(), multiply, rate)
    decays = decays and weight_decay != 0
    branches, names = {}, {}
    for path, group in groups.items():
        # A branch for each thaw: Adam's count must not run while a group is still frozen.
        decaying = decays and group.decay != 0
        names[path] = kind + ("" if decaying else "_no_decay") + (f"_thaw{group.thaw}" if group.thaw else "")
        branches[names[path]] = _in_float32(with_decay if decaying else without)
    return branches, names


def _by_name(transforms: Mapping[str, optax.GradientTransformation], groups: Mapping[str, Group]) -> Branches:
    names = {path: group.name for path, group in groups.items()}
    for name in names.values():
        if name not in transforms:
            raise InputError(f"the group {name!r} has no transformation{did_you_mean(name, transforms)}")
    for name in transforms:
        if name not in names.values():
            raise InputError(f"transforms names {name!r}, which no group has{did_you_mean(name, set(names.values()))}")
    if _FROZEN in transforms:
        raise InputError(f"a group cannot be called {_FROZEN!r}: that is the label of what does not train")
    multiply = _multiply({path: group.lr for path, group in groups.items()})
    return {name: optax.chain(tx, multiply) for name, tx in transforms.items()}, names


def _clip(bound: float, labels: Any) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` over the trainable leaves; frozen ones pass by, uncounted."""
    if not bound > 0:
        raise InputError(f"clip must be a positive norm, or None for no clipping, not {bound}")
    clip = optax.clip_by_global_norm(bound)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        trainable, frozen = partition(updates, labels)
        trainable, state = clip.update(trainable, state)
        return combine(trainable, frozen), state

    return optax.GradientTransformation(clip.init, update)


def _in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`tx` seeing no leaf narrower than float32: moments of bfloat16 leaves lose small updates and overflow to NaN."""
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return inner.update(promote(updates), state, promote(params), **extra)

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(promote(params)), update)


def _decay(factors: Mapping[str, float], weight_decay: float | None) -> optax.GradientTransformationExtraArgs:
    """Adds `weight_decay` × the leaf's factor × the leaf; None takes it from the arguments of the update."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        decay = _argument(extra, "weight_decay") if weight_decay is None else weight_decay
        if params is None:
            raise InputError("weight decay needs the parameters: call update(grads, state, params)")

        def add(path: Any, update: jax.Array, leaf: jax.Array) -> jax.Array:
            return update + _times(factors[path_name(path)], decay) * leaf

        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _multiply(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each leaf by its factor."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree_util.tree_map_with_path(lambda p, u: _times(factors[path_name(p)], u), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _rate_argument() -> optax.GradientTransformationExtraArgs:
    """Descends by the `learning_rate` given to each update."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        rate = _argument(extra, "learning_rate")
        return jax.tree.map(lambda u: -rate * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _argument(extra: Mapping[str, Any], name: str) -> Any:
    if extra.get(name) is None:
        raise InputError(f"optimizer(labels) without a {name} takes it at each update(…, {name}=)")
    return extra[name]


def _times(factor: float, value: Any) -> Any:
    return value if factor == 1 else factor * value
