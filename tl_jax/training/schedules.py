"""The learning rate as a function of the step, on the host: the compiled step takes the number as an argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from tl_jax.errors import InputError, did_you_mean


class _Shape(NamedTuple):
    """A schedule: its way up and its way down as shares of the peak, progress going from 0 to 1 on each."""

    rise: Callable[[float], float]
    fall: Callable[[float], float]
    warmup: float  # its own, where none is given


def _straight(start: float, end: float) -> Callable[[float], float]:
    return lambda progress: start + (end - start) * progress


def _cosine(start: float, end: float) -> Callable[[float], float]:
    return lambda progress: end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


_SHAPES: dict[str, _Shape] = {
    "linear": _Shape(_straight(0, 1), _straight(1, 0), 0.1),
    "cosine": _Shape(_straight(0, 1), _cosine(1, 0), 0.1),
    "constant": _Shape(_straight(0, 1), _straight(1, 1), 0.1),
    "one_cycle": _Shape(_cosine(1 / 25, 1), _cosine(1, 1 / 25e4), 0.3),
    "slanted_triangular": _Shape(_straight(1 / 32, 1), _straight(1, 1 / 32), 0.1),
}
SCHEDULES = tuple(_SHAPES)


def schedule(name: str, *, peak: float, total: int, warmup: float | None = None) -> Callable[[int], float]:
    """The learning rate of step 0, 1, …, `total` - 1: a rise to `peak`, then `name`'s way back.

    `name` is
    - `linear` or `cosine` (Loshchilov & Hutter 2017, one cycle): from 0 in a straight line, back to 0 at `total`; as
      transformers' `get_…_with_warmup` and optax's `warmup_cosine_decay_schedule` define them;
    - `constant`: from 0 in a straight line, then it stays;
    - `one_cycle` (Smith & Topin 2018): from peak / 25 along a cosine, back along another to peak / 250,000 in the last
      step; as torch's `OneCycleLR` has it. Its momentum stays;
    - `slanted_triangular` (Howard & Ruder 2018, ratio 32): from peak / 32 in a straight line, back to it at `total`.

    `warmup` is a number of steps, or a fraction of `total` below 1 (rounded up); None is the schedule's own: 0.3 for
    `one_cycle`, 0.1 for the others. Raises `InputError`.
    """
    if name not in _SHAPES:
        raise InputError(f"unknown schedule {name!r}{did_you_mean(name, _SHAPES)}")
    if not (math.isfinite(peak) and peak > 0):
        raise InputError(f"the learning rate must be a positive number, not {peak}")
    if total < 1:
        raise InputError(f"a schedule needs at least one step, not {total}")
    shape = _SHAPES[name]
    rise = warmup_steps(shape.warmup if warmup is None else warmup, total)
    last = total - 1 if name == "one_cycle" else total  # the step at which it is down again

    def rate(step: int) -> float:
        if step < rise:
            return peak * shape.rise(step / rise)
        return peak * shape.fall(min(1.0, (step - rise) / max(1, last - rise)))

    return rate


def warmup_steps(warmup: float, total: int) -> int:
    """`warmup` in steps: itself when a whole number ≥ 1, else that fraction of `total`, rounded up but short of all."""
    steps = min(math.ceil(warmup * total), total - 1) if 0 <= warmup < 1 else warmup
    if not (0 <= steps <= total and steps == int(steps)):
        raise InputError(f"warm-up must be a whole number of the {total} steps or a fraction below 1, not {warmup}")
    return int(steps)
