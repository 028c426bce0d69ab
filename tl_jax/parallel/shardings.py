"""Where each parameter lies on a mesh: rules over paths, as for everything that is decided per parameter.

A rule gives a `PartitionSpec` over the axes `data`, `fsdp` and `tensor`. What belongs to a parameter follows it by
path: an adapter its kernel, a moment its leaf. A dimension that an axis does not divide stays whole on that axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax.sharding import PartitionSpec as P

from tl_jax.errors import InputError, did_you_mean
from tl_jax.parallel.axes import AXES
from tl_jax.rules import Rule, match, optional, paths

Rules = Iterable[Rule | tuple[str, Any]]
Sizes = Mapping[str, int]  # devices by axis

# Kernels are [in, out]. Into heads and into the wide layer by columns, out of them by rows: between the two nothing is
# exchanged, after them one sum. `fsdp` takes the other dimension. Embeddings are cut across: vocabularies are odd.
# Biases and norms are small and stay whole on `fsdp`: a gather each would cost more than the bytes.
DEFAULT = optional(
    [
        (r"(.*/)?(\w*attention/(query|key|value)|mlp/(gate|up))/kernel", P("fsdp", "tensor")),
        (r"(.*/)?(\w*attention/(query|key|value)|mlp/(gate|up))/bias", P("tensor")),
        (r"(.*/)?(\w*attention/out|mlp/down)/kernel", P("tensor", "fsdp")),
        (r"(.*/)?(pooler/dense|head)/kernel", P("fsdp")),
        (r"(.*/)?embedding", P(None, "fsdp")),
    ]
)


def specs(variables: Mapping[str, Any], sizes: Sizes, rules: Rules = DEFAULT) -> dict[str, P]:
    """`{path: spec}` for the leaves of `params` and `adapters`, each path led by its collection.

    Leaves that no rule decides are whole everywhere; an adapter leaf that none decides lies as its kernel does, in the
    first dimension where it is as long as the kernel's first, in the last where it is as long as its last. Raises
    `InputError` for rules that decide nothing (but for optional ones), values that are no `PartitionSpec` of these
    axes, and specs longer than their leaf has dimensions.
    """
    ruled = {collection: variables[collection] for collection in ("params", "adapters") if variables.get(collection)}
    decided = paths(match(rules, ruled, default=_NOBODY))
    leaves = paths(ruled)
    found: dict[str, P] = {}
    for path, leaf in leaves.items():
        spec = decided[path]
        if spec is _NOBODY:
            spec = _of_site(path, leaf, leaves, found) if path.startswith("adapters/") else P()
        found[path] = _divided(_checked(spec, path, leaf), leaf.shape, sizes)
    return {path if path.startswith("adapters/") else f"params/{path}": spec for path, spec in found.items()}


def rows(shape: Sequence[int], sizes: Sizes, axis: int = 0) -> P:
    """How an array of a batch lies, its rows along `axis`: over `data` and `fsdp`, as far as they divide them."""
    return _divided(P(*[None] * axis, ("data", "fsdp")), shape, sizes)


def follow(path: str, shape: Sequence[int], known: Mapping[str, tuple[Sequence[int], P]]) -> P:
    """How a leaf of any tree lies: as the parameter (shape and spec, by path) that its own path ends in; else whole."""
    keys = path.split("/")
    for i, key in enumerate(keys):
        if key in ("params", "adapters") and (owner := known.get("/".join(keys[i:]))) is not None:
            return owner[1] if tuple(owner[0]) == tuple(shape) else P()  # a factored moment has another shape
    return P()


def without(spec: P, *axes: str) -> P:
    """The spec with some axes left out: whole on them."""
    return P(*(_entry([name for name in _names(entry) if name not in axes]) for entry in spec))


def parts(spec: P, sizes: Sizes) -> int:
    """Into how many parts an array that lies so is cut."""
    return math.prod(sizes[name] for entry in spec for name in _names(entry))


class _Nobody:
    """The value of leaves that no rule decides."""


_NOBODY = _Nobody()


def _of_site(path: str, leaf: Any, leaves: Mapping[str, Any], found: Mapping[str, P]) -> P:
    """The spec of an adapter leaf, `adapters/<method>/<site>/<leaf>`, by the kernel of its site."""
    kernel = f"{path.split('/', 2)[2].rpartition('/')[0]}/kernel"
    if kernel not in found or not leaf.ndim:
        return P()
    shape = leaves[kernel].shape
    whole: list[Any] = [*found[kernel], *[None] * len(shape)][: len(shape)]
    mine: list[Any] = [None] * leaf.ndim
    if leaf.shape[0] == shape[0] and leaf.ndim > 1:
        mine[0] = whole[0]
    if leaf.shape[-1] == shape[-1] and whole[-1] != mine[0]:
        mine[-1] = whole[-1]
    return P(*mine)


def _checked(spec: Any, path: str, leaf: Any) -> P:
    if not isinstance(spec, P):
        raise InputError(f"the rules give {path} {spec!r}; where it lies must be a jax.sharding.PartitionSpec")
    for entry in spec:
        for name in _names(entry):
            if name not in AXES:
                raise InputError(f"the rules put {path} on the axis {name!r}{did_you_mean(name, AXES)}")
    if len(spec) > leaf.ndim:
        raise InputError(f"the rules give {path} {spec}, more entries than it has dimensions: {list(leaf.shape)}")
    return spec


def _divided(spec: P, shape: Sequence[int], sizes: Sizes) -> P:
    """The spec without axes of one device, and without those that do not divide their dimension."""
    entries = []
    for entry, length in zip(spec, shape, strict=False):
        kept, cut = [], 1
        for name in _names(entry):
            if sizes[name] > 1 and length % (cut * sizes[name]) == 0:
                kept.append(name)
                cut *= sizes[name]
        entries.append(_entry(kept))
    while entries and entries[-1] is None:  # one way to write each spec
        entries.pop()
    return P(*entries)


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _entry(names: Sequence[str]) -> Any:
    return None if not names else names[0] if len(names) == 1 else tuple(names)
