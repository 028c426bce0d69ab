"""The number that dropout draws from at each position of each example."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def position_noise(index: npt.NDArray[Any], positions: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """hash(example index, position) as uint32, for integer arrays that broadcast together.

    A function of these two numbers alone: the same in whatever row, batch, order and padding an example lies.
    Two rounds of murmur3's 32-bit finaliser (Appleby 2011), each a bijection: positions of one example never share
    a value, nor do examples at one position.
    """
    with np.errstate(over="ignore"):  # wrapping is meant; numpy warns of it for scalars
        seed = _mix(_u32(index) * np.uint32(0x9E3779B1) + np.uint32(0x7F4A7C15))
        return _mix(seed ^ (_u32(positions) * np.uint32(0x85EBCA77) + np.uint32(0x165667B1)))


def _u32(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    return np.asarray(values).astype(np.uint32)


def _mix(h: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x85EBCA6B)
    h = h ^ (h >> np.uint32(13))
    h = h * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))
