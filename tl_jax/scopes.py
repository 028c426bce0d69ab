"""A stage's part of the variables: its scope of every collection, taken out and put back.

The scope "" is a collection itself, without the scopes of the other stages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tl_jax.errors import InputError

Borrows = Iterable[tuple[str, str]]  # (local leaf, absolute path) pairs


def taken(variables: Mapping[str, Any], home: str, borrows: Borrows, others: Collection[str]) -> dict[str, Any]:
    """The variables a stage's module sees, borrowed leaves put in their places; `others` are other stages' scopes."""
    mine = {
        collection: tree[home] if home else {k: v for k, v in tree.items() if k not in others}
        for collection, tree in variables.items()
        if collection != "adapters" and (home == "" or home in tree)
    }
    for local, owner in borrows:
        leaf: Any = variables["params"]
        for part in owner.split("/"):
            leaf = leaf[part]
        mine["params"] = _with(mine.get("params", {}), local.split("/"), leaf)
    return mine


def add(
    variables: dict[str, Any], home: str, borrows: Borrows, others: Collection[str], made: Mapping[str, Any]
) -> None:
    """Put what a stage's module made into its scope, without the leaves it only borrows.

    Raises `InputError` where a module of scope "" made what belongs into another's.
    """
    for collection, tree in made.items():
        if foreign := sorted(set(others) & tree.keys()):
            raise InputError(
                f"{foreign[0]!r} among the network's own {collection} is where those of the stage of that name belong: "
                "give one of the two another name"
            )
        for local, _ in borrows:
            tree = _without(tree, local.split("/")) if collection == "params" else tree
        if tree:
            put(variables, collection, home, tree)


def put(variables: dict[str, Any], collection: str, home: str, tree: Mapping[str, Any]) -> None:
    """The inverse of `taken` for one collection."""
    scopes = variables.setdefault(collection, {})
    scopes.update({home: tree} if home else tree)


def _with(tree: Mapping[str, Any], path: list[str], leaf: Any) -> dict[str, Any]:
    head, *rest = path
    return {**tree, head: _with(tree.get(head, {}), rest, leaf) if rest else leaf}


def _without(tree: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    head, *rest = path
    inner = _without(tree[head], rest) if rest else {}
    return {k: v for k, v in tree.items() if k != head} | ({head: inner} if inner else {})
