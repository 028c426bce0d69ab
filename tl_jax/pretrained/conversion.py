"""Foreign tensors to params and back through a family's name map: strict, and exact to the bit.

Every tensor of a file is used, or carried over unread; every parameter of the model is found. What does not fit is told
at once, in one error. Tensors stay `Deferred` until somebody wants their numbers; only what may be a copy is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from tl_jax.errors import InputError
from tl_jax.models.families import named_like
from tl_jax.models.names import ENDS, NameMap, Transform
from tl_jax.pretrained.malformed import plain
from tl_jax.pretrained.tensor_files import Deferred, Tensors, same_bits
from tl_jax.rules import paths
from tl_jax.trees import STATISTICS

_SHOWN = 40  # lines of a kind in an error


@dataclass(frozen=True)
class Converted:
    """What a file holds, all `Deferred`: nested `params`, the `names` they come under, and what is `carried` over.

    `statistics` are what norms keep, nested likewise; their paths in `names` begin with the collection, `batch_stats`.
    `copies` are names under which the file repeats a parameter, bit for bit, with its path.
    """

    params: dict[str, Any]
    names: dict[str, str]
    carried: dict[str, Deferred]
    statistics: dict[str, Any] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": …}`, with `batch_stats` where there are any."""
        return {"params": self.params} | ({STATISTICS: self.statistics} if self.statistics else {})


def to_canonical(
    tensors: Tensors,
    names: NameMap,
    expected: Mapping[str, tuple[int, ...]],
    where: str,
    dtype: np.dtype[Any] | None = None,
) -> Converted:
    """The tensors of a file as nested params, in the file's dtypes unless `dtype` is given.

    `expected` are the shapes the model needs by canonical path, in its order. Names the family knows to ignore, the
    weights of a pooler or head that the model lacks, and those of a pooler that a classifier's own stand in for, are
    carried over. Raises `InputError` listing all tensors that are
    missing, extra, misshapen or no floating-point numbers, each by its foreign name and its path; `where` names the
    file.
    """
    found: dict[str, tuple[str, Transform]] = {}
    carried: list[str] = []
    faults = _Faults()
    scopes = {path.partition("/")[0] for path in expected}
    for name, spec in tensors.specs.items():
        path, transform = names.to_canonical(name) or ("", "copy")
        scope = path.partition("/")[0]
        absent = scope in ENDS and scope not in scopes
        if names.is_ignored(name) or absent or names.gives_way(name, tensors.specs):
            carried.append(name)
        elif path not in expected:
            faults.extra.append(f"{plain(name)} {list(spec.shape)}" + (f" -> {path}" if path else ""))
            if not path:
                faults.strangers.append(name)
        elif path in found:
            faults.extra.append(f"{name} {list(spec.shape)} -> {path}, which is also {found[path][0]}")
        else:
            faults.known = True
            found[path] = name, transform
            wanted = _their_shape(expected[path], transform)
            if spec.shape != wanted:
                faults.misshapen.append(f"{name} {list(spec.shape)} -> {path}: expected {list(wanted)}")
            elif not jnp.issubdtype(spec.dtype, jnp.floating):
                faults.misshapen.append(f"{name} {spec.dtype} -> {path}: expected floating-point numbers")
    common = prefix((name for name, _ in found.values()), names)
    for path, shape in expected.items():
        if path not in found:
            name, transform = names.to_foreign(path, common, classifier="head" in scopes) or (path, "copy")
            faults.missing.append(f"{name} {list(_their_shape(shape, transform))} -> {path}")
    if faults:
        raise InputError(faults.message(where, names, tensors.specs))
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for path in expected:
        name, transform = found[path]
        stored = tensors.deferred(name)
        kept = stored.dtype if dtype is None else dtype
        inside = path.removeprefix(f"{STATISTICS}/")
        deferred = Deferred(expected[path], kept, partial(_read, stored, transform, kept))
        _put(params if inside == path else statistics, inside, deferred)
    used = {path: name for path, (name, _) in found.items()}
    copies = {name: path for name, path in names.ties if name in carried and path in used}
    copies = {name: path for name, path in copies.items() if same_bits(tensors, name, used[path])}
    rest = {name: _carried(tensors.deferred(name), dtype) for name in carried if name not in copies}
    return Converted(params, used, rest, statistics, copies)


def to_foreign(
    params: Mapping[str, Any],
    names: NameMap,
    as_read: Mapping[str, str],
    prefix: str = "",
    copies: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Deferred]:
    """Nested params, or whole variables, under foreign names: those of `as_read` (path to name), else the family's
    present ones.

    `prefix` precedes the latter's backbone; params with a head have the names of a classifier's file. `copies` (name to
    path) are names under which a parameter is repeated. Dtypes stay. The leaves are arrays of any kind, on any device,
    or `Deferred`. Raises `InputError` for parameters the family has no name for.
    """
    tensors: dict[str, Deferred] = {}
    nameless = []
    leaves = paths(params)
    classifier = any(path.startswith("head/") for path in leaves)
    for path, leaf in leaves.items():
        known = names.to_foreign(path, prefix, classifier=classifier)
        if known is None:
            nameless.append(path)
        else:
            shape = _their_shape(tuple(leaf.shape), known[1])
            stored = Deferred(shape, np.dtype(leaf.dtype), partial(_written, leaf, known[1]))
            repeated = [name for name, of in copies.items() if of == path]
            tensors |= dict.fromkeys([as_read.get(path, known[0]), *repeated], stored)
    if nameless:
        raise InputError(f"these parameters have no name in the foreign format: {', '.join(nameless)}")
    return tensors


def prefix(read: Iterable[str], names: NameMap) -> str:
    """The prefix most of these foreign names of a family carry, its head's apart."""
    carried = Counter(names.prefix(name) for name in read)
    return max(carried, key=carried.__getitem__, default="")


def _carried(stored: Deferred, dtype: np.dtype[Any] | None) -> Deferred:
    """What is carried over, in the `dtype` that the params get if it is of floating-point numbers as they are."""
    if dtype is None or not jnp.issubdtype(stored.dtype, jnp.floating):
        return stored
    return Deferred(stored.shape, dtype, partial(_read, stored, "copy", dtype))


def _read(stored: Deferred, transform: Transform, dtype: np.dtype[Any]) -> np.ndarray:
    return _ours(stored.read(), transform).astype(dtype, copy=False)


def _written(leaf: Any, transform: Transform) -> np.ndarray:
    return _theirs(np.asarray(leaf), transform)


def _ours(array: np.ndarray, transform: Transform) -> np.ndarray:
    if transform == "transpose":
        return array.T
    if transform == "conv":
        return np.moveaxis(array, (1, 0), (-2, -1))
    if transform == "row":
        return array[0]
    return array


def _theirs(array: np.ndarray, transform: Transform) -> np.ndarray:
    if transform == "transpose":
        return array.T
    if transform == "conv":
        return np.moveaxis(array, (-2, -1), (1, 0))
    if transform == "row":
        return array[None]
    return array


def _their_shape(shape: tuple[int, ...], transform: Transform) -> tuple[int, ...]:
    return _theirs(np.broadcast_to(np.float32(0), shape), transform).shape


def _put(tree: dict[str, Any], path: str, leaf: Any) -> None:
    *scopes, name = path.split("/")
    for scope in scopes:
        tree = tree.setdefault(scope, {})
    tree[name] = leaf


@dataclass
class _Faults:
    """All that keeps a file from fitting a model, as lines by kind."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)  # names among the extra that the family does not know
    known: bool = False  # whether the family knows any

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)

    def message(self, where: str, names: NameMap, present: Collection[str]) -> str:
        lines = [f"{where} does not fit the model its config.json describes"]
        for kind in ("missing", "extra", "misshapen"):
            told = getattr(self, kind)
            if told:
                lines.append(f"{kind} ({len(told)}):")
                lines += [f"  {line}" for line in told[:_SHOWN]]
                if len(told) > _SHOWN:
                    lines.append(f"  … and {len(told) - _SHOWN} more")
        return "\n".join(lines + self._hint(names, present))

    def _hint(self, names: NameMap, present: Collection[str]) -> list[str]:
        """One more line where the names are those of another family, or of this one behind another prefix."""
        if self.strangers:
            ours = sum(names.to_canonical(name) is not None for name in present)
            families = named_like(present)
            best = max(families, key=families.__getitem__)
            if families[best] > max(ours, len(present) // 2):
                return [f"the names are those of {best}: is model_type in config.json right?"]
        hidden = Counter(
            name.partition(".")[0] for name in self.strangers if names.to_canonical(name.partition(".")[2])
        )
        if hidden:
            first, count = hidden.most_common(1)[0]
            usual = " or ".join(["none", *map(repr, names.prefixes)])
            return [
                f"{count} of the extra names are those of this family behind the prefix '{first}.', where {usual} "
                "belongs: is model_type in config.json right, and the file that of the model itself?"
            ]
        if self.strangers and not self.known:
            return ["the names look like those of another family: is model_type in config.json right?"]
        return []
