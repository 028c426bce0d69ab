"""The moving average of the trainable leaves: what is evaluated and kept, while the leaves themselves train on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tl_jax.errors import InputError


def average(before: Any, trainable: Any, decay: Any, step: jax.Array) -> Any:
    """The average after an update: `decay × before + (1 - decay) × trainable`, leaf by leaf; None stays None.

    Averaging weights along training: Polyak & Juditsky 1992; as an exponential moving average with the decay held
    down at first, `min(decay, (1 + step) / (10 + step))`, as TensorFlow's `ExponentialMovingAverage(num_updates=step)`
    has it: a short run is not dominated by where it started. `step` is the number of updates done before this one.
    Raises `InputError` if there is an average but no `decay`.
    """
    if before is None:
        return None
    if decay is None:
        raise InputError("the state keeps an average: give the step hyper={…, 'ema': decay}")
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda a, leaf: a + rate * (leaf - a), before, trainable)
