"""Cut a tree into what trains and what does not, before anything is differentiated."""

from __future__ import annotations

from typing import Any

import jax

from tl_jax.errors import InputError, did_you_mean
from tl_jax.groups import FROZEN, Group
from tl_jax.trees import by_path, path_name


def partition(tree: Any, labels: Any) -> tuple[Any, Any]:
    """The trainable and the frozen half of `tree`, both in its structure, with None where the other has the leaf.

        params = {"body": {"kernel": k}, "head": {"kernel": h}}
        labels = {"body": {"kernel": FROZEN}, "head": {"kernel": Group("head")}}
        trainable, frozen = partition(params, labels)
        # trainable = {"body": {"kernel": None}, "head": {"kernel": h}}
        # frozen    = {"body": {"kernel": k}, "head": {"kernel": None}}

    A leaf is frozen by `FROZEN` and trained by a `Group`; a hole (None) of `tree` stays one. Raises `InputError` where
    labels and tree do not fit.
    """
    labels = align(labels, tree)
    trainable = jax.tree.map(lambda leaf, label: None if label is FROZEN else leaf, tree, labels)
    frozen = jax.tree.map(lambda leaf, label: leaf if label is FROZEN else None, tree, labels)
    return trainable, frozen


def combine(trainable: Any, frozen: Any) -> Any:
    """The inverse of `partition`: each hole of one half filled from the other.

    combine(*partition(params, labels))    # params
    """
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def align(labels: Any, tree: Any) -> Any:
    """`labels` in the structure of `tree`, matched by path: containers may differ in type, holes need no label."""
    known = by_path(labels)
    leaves = by_path(tree, holes=True)
    if foreign := [path for path in known if path not in leaves]:
        raise InputError(f"{foreign[0]!r} has a label but is no leaf of the tree{did_you_mean(foreign[0], leaves)}")
    for path, leaf in leaves.items():
        if leaf is not None and path not in known:
            raise InputError(f"the leaf {path!r} has no label{did_you_mean(path, known)}")
    for path, label in known.items():
        if label is not FROZEN and not isinstance(label, Group):
            raise InputError(f"the label of {path!r} must be a Group or FROZEN, not {label!r}")
    return jax.tree_util.tree_map_with_path(lambda path, _: known[path_name(path)], tree)
