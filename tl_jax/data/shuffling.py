"""Random orders that are a pure function of two numbers, the same on every machine and numpy version."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from tl_jax.errors import InputError


def permutations(key: tuple[int, int], *sizes: int) -> list[npt.NDArray[np.int64]]:
    """One permutation int64 [n] per size n, drawn one after the other from the stream of `key` (two 64-bit numbers).

    They sort the raw output of the counter-based Philox generator, which numpy promises never to change;
    `Generator.permutation` comes without that promise. (Salmon et al. 2011, "Parallel random numbers: as easy as
    1, 2, 3".)
    """
    stream = np.random.Philox(key=np.array(key, np.uint64))
    return [np.argsort(stream.random_raw(n), kind="stable") for n in sizes]


def check_seed(seed: Any) -> int:
    """`seed` as an int. Raises InputError unless it is an integer from 0 to 2**64 - 1."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number < 2**64:
        raise InputError(f"the seed must be an integer from 0 to 2**64 - 1, not {seed!r}")
    return number


def text_hash(text: str) -> int:
    """SHA-256 of the UTF-8 text, as an integer (big-endian)."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
