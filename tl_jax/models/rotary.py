"""Rotary positions (Su et al. 2021): pairs of features turn by an angle that grows with the position.

A pair is (j, j + D/2), as transformers has it; Meta's files pair neighbours, which `pretrained.meta_files` reorders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rotary:
    """How fast each of the pairs of a head of `width` features turns; `width` is even.

    kind: "default" turns pair j by `base` ** (-2j / width) a position; "linear" (Chen et al. 2023) by `factor` less;
        "llama3" (Grattafiori et al. 2024) by `factor` less where a turn takes more than `original / low` positions, as
        before where it takes fewer than `original / high`, and between the two by something between.
    """

    width: int
    base: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    @property
    def frequencies(self) -> npt.NDArray[np.float32]:
        """Radians a position, float32 [width / 2], computed in float32 as the models were trained with them."""
        exponents = np.arange(0, self.width, 2, dtype=np.float32) / np.float32(self.width)
        plain = np.float32(1) / np.float32(self.base) ** exponents
        slow = plain / np.float32(self.factor)
        if self.kind == "default":
            return plain
        if self.kind == "linear":
            return slow
        turn = np.float32(2 * math.pi) / plain  # positions a turn takes
        share = (np.float32(self.original) / turn - np.float32(self.low)) / np.float32(self.high - self.low)
        between = (1 - share) * slow + share * plain
        rest = np.where(turn < self.original / self.high, plain, between)
        return np.where(turn > self.original / self.low, slow, rest)


def rotate(x: Array, positions: Any, frequencies: npt.NDArray[np.float32]) -> Array:
    """`x [B, T, H, D]` turned by `positions [B, T]`, in float32; returned in the dtype of `x`."""
    angles = jnp.asarray(positions, jnp.float32)[..., None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
