"""The learning rate as a function of the step, on the host: the compiled step takes the number as an argument."""

from __future__ import annotations

import math
from collections.abc import Callable

from tl_jax.errors import InputError, did_you_mean

# What is left of the peak once the warm-up is over, `progress` going from 0 to 1 over the remaining steps.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
}
SCHEDULES = tuple(_SHAPES)


def schedule(name: str, *, peak: float, total: int, warmup: float = 0) -> Callable[[int], float]:
    """The learning rate of step 0, 1, …, `total` - 1: a linear rise from 0 to `peak`, then `name`'s way back.

    `name` is `linear` or `cosine` (Loshchilov & Hutter 2017, one cycle), which reach 0 at `total`, or `constant`.
    `warmup` is a number of steps, or a fraction of `total` below 1 (rounded up). As transformers' `get_…_with_warmup`
    and optax's `warmup_cosine_decay_schedule` define them. Raises `InputError`.
    """
    if name not in _SHAPES:
        raise InputError(f"unknown schedule {name!r}{did_you_mean(name, _SHAPES)}")
    if not (math.isfinite(peak) and peak > 0):
        raise InputError(f"the learning rate must be a positive number, not {peak}")
    if total < 1:
        raise InputError(f"a schedule needs at least one step, not {total}")
    rise = warmup_steps(warmup, total)
    shape = _SHAPES[name]

    def rate(step: int) -> float:
        if step < rise:
            return peak * step / rise
        return peak * shape(min(1.0, (step - rise) / max(1, total - rise)))

    return rate


def warmup_steps(warmup: float, total: int) -> int:
    """`warmup` in steps: itself when a whole number ≥ 1, else that fraction of `total`, rounded up but short of all."""
    steps = min(math.ceil(warmup * total), total - 1) if 0 <= warmup < 1 else warmup
    if not (0 <= steps <= total and steps == int(steps)):
        raise InputError(f"warm-up must be a whole number of the {total} steps or a fraction below 1, not {warmup}")
    return int(steps)
