"""What a model is made of: its chain and its leaves, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.stage import Variables
from tl_jax.tabular import columns
from tl_jax.trees import STATISTICS

_BLOCK = 1 << 18  # numbers


@dataclass(frozen=True)
class Leaf:
    """An array of the variables: its path, shape, dtype and size, and how many of its numbers are NaN or infinite."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    not_finite: int

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def learnt(self) -> bool:
        """Whether it is a parameter, and not what a norm keeps of its batches."""
        return not self.path.startswith(f"{STATISTICS}/")


@dataclass(frozen=True)
class Link:
    """A stage: its place in the chain, what it reads and writes, and the leaves that it owns.

    `shares` is the stage whose leaves it uses, where it owns none of its own.
    """

    depth: int
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    leaves: tuple[Leaf, ...]
    shares: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` returns; `str()` is the tables."""

    chain: tuple[Link, ...]

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every leaf, in the order of the chain."""
        return tuple(leaf for link in self.chain for leaf in link.leaves)

    def __str__(self) -> str:
        stages: list[tuple[str, ...]] = [("stage", "depth", "reads", "writes", "tensors", "parameters", "bytes")]
        for link in self.chain:
            size, held = _parameters(link.leaves), sum(leaf.bytes for leaf in link.leaves)
            owned = (f"as {link.shares}", "", "") if link.shares else (str(len(link.leaves)), f"{size:,}", f"{held:,}")
            stages.append((link.name, str(link.depth), ", ".join(link.reads), ", ".join(link.writes), *owned))
        rows: list[tuple[str, ...]] = [("path", "shape", "dtype", "bytes", "")]
        for leaf in self.leaves:
            note = f"{leaf.not_finite:,} not finite" if leaf.not_finite else ""
            rows.append((leaf.path, " × ".join(map(str, leaf.shape)) or "()", leaf.dtype, f"{leaf.bytes:,}", note))
        size, held = _parameters(self.leaves), sum(leaf.bytes for leaf in self.leaves)
        kept = sum(leaf.size for leaf in self.leaves) - size
        statistics = f" and {kept:,} statistics" if kept else ""
        total = f"{size:,} parameters{statistics} in {len(self.leaves)} tensors, {held:,} bytes"
        return "\n".join([*columns(stages), "", *columns(rows), "", total])


def inspect(model: Model, variables: Variables) -> Inspection:
    """The chain of `model` and the leaves of `variables`, each with the stage that owns it; reads every number.

    Params have their bare paths, leaves of other collections theirs in full; those of adapters belong to the stage of
    their site. Raises `InputError` for a leaf that no stage owns.
    """
    owned: dict[int, list[Leaf]] = {}
    for path, array in paths(variables).items():
        owned.setdefault(model.depth(path), []).append(_leaf(path, array))
    first: dict[str, int] = {}
    links = []
    for depth, stage in enumerate(model.stages):
        owner = first.setdefault(stage.home, depth)
        shares = model.names[owner] if owner < depth and owner in owned else None
        links.append(Link(depth, stage.name, stage.reads, stage.writes, tuple(owned.get(depth, ())), shares))
    return Inspection(tuple(links))


def _parameters(leaves: Iterable[Leaf]) -> int:
    return sum(leaf.size for leaf in leaves if leaf.learnt)


def not_finite(array: Any) -> int:
    """How many of an array's numbers are NaN or infinite; beside one that lies without gaps a buffer is held."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return 0
    flat = np.asarray(array).ravel("K")
    blocks = (flat[at : at + _BLOCK] for at in range(0, flat.size, _BLOCK))
    return sum(block.size - int(np.count_nonzero(np.isfinite(block))) for block in blocks)


def _leaf(path: str, array: Any) -> Leaf:
    return Leaf(path, tuple(array.shape), str(array.dtype), int(array.nbytes), not_finite(array))
