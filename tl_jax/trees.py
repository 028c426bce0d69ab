"""The leaves of any pytree by path, as `outer/inner`: JAX's key paths in the form that rules see; and their digest."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

STATISTICS = "batch_stats"  # the collection of what norms keep of their batches: no parameters, and beside them


def by_path(tree: Any, *, holes: bool = False) -> dict[str, Any]:
    """`{"outer/inner": leaf}` for any pytree, in JAX's order; with `holes`, None counts as a leaf."""
    is_leaf = (lambda leaf: leaf is None) if holes else None
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)}


def path_name(path: Any) -> str:
    """A JAX key path as `outer/inner`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def add_leaf(digest: Any, path: str, leaf: Any) -> None:
    """Let a `hashlib` digest see a leaf: its path, dtype, shape and bytes."""
    array = np.ascontiguousarray(leaf)
    digest.update(f"{path} {array.dtype} {array.shape}\n".encode() + array.tobytes())
