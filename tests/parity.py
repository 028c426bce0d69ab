"""How closely two computations must agree: the bounds of laws 2 and 7, in one place.

Differences are relative to the largest entry: max|a - b| / max|b|.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tl_jax.rules import paths

PARITY = 1e-5  # law 2, float32
ROUNDING = 1e-5  # the same sums in another order, float32


def relative(a: Any, b: Any, scale: float | None = None) -> float:
    """max|a - b| / max|b|, or / `scale`; shapes must be equal."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, f"{a.shape} and {b.shape}"
    error = float(np.abs(a - b).max())
    return error and error / float(np.abs(b).max() if scale is None else scale)  # nothing differs from nothing by 0


def assert_parity(ours: Any, reference: Any, exact: Any, what: str, scale: float | None = None) -> None:
    """Ours is within `PARITY` of the reference or, where the reference's float32 differs from its own float64
    (`exact`) by more, within twice that difference."""
    theirs = relative(reference, exact, scale)
    bound = max(PARITY, 2 * theirs)
    if bound > PARITY:
        print(f"{what}: float32 and float64 of the reference differ by {theirs:.1e}")
    error = relative(ours, reference, scale)
    assert error <= bound, f"{what}: {error:.2e} > {bound:.1e}"


def module_scales(tree: Any) -> dict[str, float]:
    """For each path the largest entry in its part of the stage (`layers_3/attention`).

    Gradients of queries and keys pass the softmax, which does not see a shift: they are differences of nearly equal
    numbers, a key's bias has none but rounding, and rounding is as large as their neighbours' make it.
    """
    parts = {path: "/".join(path.split("/")[:2]) for path in paths(tree)}
    largest = dict.fromkeys(parts.values(), 0.0)
    for path, leaf in paths(tree).items():
        largest[parts[path]] = max(largest[parts[path]], float(np.abs(np.asarray(leaf)).max()))
    return {path: largest[part] for path, part in parts.items()}


def assert_close(a: Mapping[str, Any], b: Mapping[str, Any], bound: float = ROUNDING) -> None:
    """Two trees are equal but for rounding, leaf by leaf, relative to the largest entry in its part of the stage."""
    ours, theirs, scales = paths(a), paths(b), module_scales(b)
    assert ours.keys() == theirs.keys()
    for path, scale in scales.items():
        error = relative(ours[path], theirs[path], scale)
        assert error <= bound, f"{path}: {error:.2e} > {bound:.1e}"


def assert_same_bits(a: Any, b: Any) -> None:
    """Two trees hold the same bits."""
    ours, theirs = paths(a), paths(b)
    assert ours.keys() == theirs.keys()
    for path in theirs:
        np.testing.assert_array_equal(np.asarray(ours[path]), np.asarray(theirs[path]), err_msg=path, strict=True)
