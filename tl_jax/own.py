"""Somebody's own network as the module of a stage: their Linen module, or their function of parameters and arrays.

`Model` uses a stage's module through `init_with_output`, `lazy_init`, `apply` and `clone` alone. The classes here give
these four to a network that knows nothing of stages. How it wants to be called is read off its signature, once, so
that what does not fit is said when the model is made:

    reads     the state keys it takes: the names of its arguments, or what the user says, in the order of arguments
    the mode  `train`, `training` or `is_training`, True where the network trains, or `deterministic`, False there
    key       (functions) what to draw from: a key where the network trains, None where it does not
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors as flax_errors

from tl_jax.errors import InputError, did_you_mean
from tl_jax.rules import paths
from tl_jax.trees import STATISTICS

_MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}
_NO_MODE = f"takes none of {', '.join(_MODES)}, so it cannot be told whether it trains"


@dataclass(frozen=True)
class Calling:
    """How a network is called, and what must come back.

    `names` are the arguments' own names where these say what is read, else None: arrays then go in by position. `mode`
    is the argument that is told whether the network trains, None if it has none.
    """

    what: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    names: tuple[str, ...] | None
    mode: str | None

    @classmethod
    def of(
        cls,
        what: str,
        parameters: Sequence[inspect.Parameter],
        keys: Mapping[str, str],
        reads: str | Sequence[str] | None,
        writes: str | Sequence[str],
        told: Sequence[str] = (),
    ) -> Calling:
        """From the arguments of a network; `keys` says which state key an argument's name stands for.

        `told` are arguments that are no arrays and go in by name, beside the mode.
        """
        mode = next((p.name for p in parameters if p.name in _MODES), None)
        arrays = [p for p in parameters if p.name not in (mode, *told)]
        writes = (writes,) if isinstance(writes, str) else tuple(writes)
        if reads is None:
            taken = _by_name(what, arrays, keys)
            return cls(what, tuple(keys[name] for name in taken), writes, taken, mode)
        reads = (reads,) if isinstance(reads, str) else tuple(reads)
        try:
            taken = tuple(inspect.Signature(arrays).bind(*reads).arguments)
        except TypeError as e:
            names = ", ".join(p.name for p in arrays)
            raise InputError(f"{what} takes ({names}), which does not fit reads={list(reads)}: {e}") from None
        first = [p.name for p in parameters][: len(taken)]
        if first == list(taken):
            return cls(what, reads, writes, None, mode)
        # What goes in by name stands before an array, so that the arrays must too.
        if stiff := [p.name for p in arrays if p.name in taken and p.kind is not p.POSITIONAL_OR_KEYWORD]:
            before = next(name for name in first if name not in taken)
            raise InputError(
                f"{what} takes {before} before {stiff[0]}, which has no name to be given by: put it behind"
            )
        return cls(what, reads, writes, taken, mode)

    def arguments(self, arrays: Sequence[Any], train: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments of the call."""
        told = {} if self.mode is None else {self.mode: train == _MODES[self.mode]}
        if self.names is None:
            return tuple(arrays), told
        return (), {**dict(zip(self.names, arrays, strict=True)), **told}

    def written(self, out: Any, arrays: Sequence[Any]) -> Any:
        """What came back, as `writes` has it: an array, or a tuple of them; logits in float32.

        Raises `InputError` for another number of arrays, a dict without a key of `writes`, and another shape.
        """
        wanted = ", ".join(self.writes)
        if isinstance(out, Mapping):
            if missing := [key for key in self.writes if key not in out]:
                raise InputError(
                    f"{self.what} returns {', '.join(map(str, out))}; to be written is {', '.join(missing)}"
                )
            out = tuple(out[key] for key in self.writes)
        outs = tuple(out) if isinstance(out, tuple | list) else (out,)
        if len(outs) != len(self.writes):
            raise InputError(f"{self.what} returns {len(outs)} arrays; to be written is {wanted}")
        found = tuple(self._checked(key, value, arrays) for key, value in zip(self.writes, outs, strict=True))
        return found if len(found) > 1 else found[0]

    def _checked(self, key: str, value: Any, arrays: Sequence[Any]) -> Any:
        if not hasattr(value, "shape") or not jnp.issubdtype(value.dtype, jnp.floating):
            kind = getattr(value, "dtype", type(value).__name__)
            raise InputError(f"{self.what} returns {kind} for {key}: it must be an array of floating-point numbers")
        if key in ("pooled", "logits"):
            packed = "starts" in self.reads  # then there are more examples than rows
            examples = value.shape[0] if packed and value.ndim else arrays[0].shape[0]
            if value.ndim != 2 or value.shape[0] != examples:
                last = "labels" if key == "logits" else "features"
                raise InputError(
                    f"{self.what} returns {list(value.shape)} for {key}: it must be [{examples}, {last}], "
                    "one row for each example"
                )
        return value.astype(jnp.float32) if key == "logits" else value


@dataclass(frozen=True)
class LinenNetwork:
    """A Linen module; compared by value, as Linen modules are."""

    module: Any
    calling: Calling

    @classmethod
    def of(
        cls, module: Any, keys: Mapping[str, str], reads: str | Sequence[str] | None, writes: str | Sequence[str]
    ) -> LinenNetwork:
        """Raises `InputError` for a module whose fields cannot be hashed, and for arguments that do not fit."""
        what = type(module).__name__
        for field in fields(module):
            try:
                hash(getattr(module, field.name, None)) if field.name not in ("parent", "name") else None
            except TypeError:
                raise InputError(
                    f"{what}.{field.name} is {type(getattr(module, field.name)).__name__}, which has no hash, and the "
                    "module is part of what is compiled: give a tuple, or a frozen dataclass"
                ) from None
        parameters = list(inspect.signature(type(module).__call__).parameters.values())[1:]
        return cls(module, Calling.of(what, parameters, keys, reads, writes))

    def apply(
        self, variables: Mapping[str, Any], *arrays: Any, train: bool, rngs: Any = None, mutable: Iterable[str] = ()
    ) -> tuple[Any, Mapping[str, Any]]:
        """What it writes, and the collections it changed: none in evaluation, where it may not change any."""
        what, told = self.calling.what, self.calling.mode is not None
        if not told and variables.get(STATISTICS):
            raise InputError(f"{what} keeps statistics ({STATISTICS}) and {_NO_MODE}")
        args, named = self.calling.arguments(arrays, train)
        streams = None
        if told and rngs is not None:  # Linen draws from "params" where a module asks for a stream of another name
            streams = {**rngs, "params": jax.random.fold_in(rngs["dropout"], 0)}
        try:
            out, changes = self.module.apply(
                variables, *args, **named, rngs=streams, mutable=list(mutable) if train else []
            )
        except flax_errors.InvalidRngError as e:
            if not told:
                raise InputError(f"{what} draws random numbers and {_NO_MODE}") from e
            if not train:
                raise InputError(f"{what} draws random numbers though {self._still}: dropout must follow it") from e
            raise
        except flax_errors.ModifyScopeVariableError as e:
            if not train:
                raise InputError(f"{what} updates its statistics though {self._still}: norms must follow it") from e
            raise
        return self.calling.written(out, arrays), changes

    @property
    def _still(self) -> str:
        mode = self.calling.mode
        return f"{mode}={mode is not None and not _MODES[mode]}"

    def init_with_output(self, key: jax.Array, *arrays: Any, train: bool) -> tuple[Any, Any]:
        args, named = self.calling.arguments(arrays, train)
        out, variables = self.module.init_with_output(key, *args, **named)
        return self.calling.written(out, arrays), variables

    def lazy_init(self, key: jax.Array, *arrays: Any, train: bool) -> Any:
        args, named = self.calling.arguments(arrays, train)
        return self.module.lazy_init(key, *args, **named)

    def clone(self, *, dtype: Any) -> LinenNetwork:
        if "dtype" not in {field.name for field in fields(self.module)}:
            raise InputError(
                f"{self.calling.what} has no field dtype to compute in {jnp.dtype(dtype).name} by; "
                "give it one and hand it to its layers, or leave the precision at float32"
            )
        return LinenNetwork(self.module.clone(dtype=dtype), self.calling)


@dataclass(frozen=True)
class FunctionNetwork:
    """A function of parameters and arrays; compared by identity, as functions are.

    `shapes` are the path, shape and dtype of each parameter: a function says nothing of what it takes.
    """

    function: Callable[..., Any]
    calling: Calling
    shapes: tuple[tuple[str, tuple[int, ...], str], ...]
    takes_key: bool

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        variables: Mapping[str, Any],
        keys: Mapping[str, str],
        reads: str | Sequence[str] | None,
        writes: str | Sequence[str],
    ) -> FunctionNetwork:
        """Raises `InputError` for variables other than nested dicts of params, and for arguments that do not fit."""
        what = getattr(function, "__name__", None) or type(function).__name__
        if not isinstance(variables, Mapping) or not isinstance(variables.get("params"), Mapping):
            raise InputError(f"give {what} its variables, {{'params': nested dicts of arrays}}")
        if others := [name for name in variables if name != "params"]:
            raise InputError(f"{what} is a function of params, and {', '.join(others)} would not reach it")
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise InputError(f"{what} takes no argument: the first must be its params")
        takes_key = any(p.name == "key" for p in parameters[1:])
        calling = Calling.of(what, parameters[1:], keys, reads, writes, told=("key",))
        if takes_key and calling.mode is None:
            raise InputError(f"{what} takes a key to draw from and {_NO_MODE}")
        return cls(function, calling, tuple(_specs(what, variables["params"])), takes_key)

    def apply(
        self, variables: Mapping[str, Any], *arrays: Any, train: bool, rngs: Any = None, mutable: Iterable[str] = ()
    ) -> tuple[Any, Mapping[str, Any]]:
        """What it writes; it changes nothing, whatever is `mutable`."""
        what, params = self.calling.what, variables.get("params", {})
        expected, given = {path: shape for path, shape, _ in self.shapes}, _shapes(params)
        if wrong := sorted(path for path in {*expected, *given} if expected.get(path) != given.get(path)):
            said = (f"{p} is {_told(given.get(p))}, was {_told(expected.get(p))}" for p in wrong[:5])
            raise InputError(f"these are not the params {what} was given with: {'; '.join(said)}")
        args, named = self.calling.arguments(arrays, train)
        if self.takes_key:
            if train and rngs is None:
                raise InputError(f"{what} takes a key in training: give apply one")
            named["key"] = rngs["dropout"] if train else None
        return self.calling.written(self.function(params, *args, **named), arrays), {}

    def init_with_output(self, key: jax.Array, *arrays: Any, train: bool) -> tuple[Any, Any]:
        """Only ever traced: what it returns has the shapes, the values are zeros."""
        params: dict[str, Any] = {}
        for path, shape, dtype in self.shapes:
            *scopes, name = path.split("/")
            inner = params
            for scope in scopes:
                inner = inner.setdefault(scope, {})
            inner[name] = jnp.zeros(shape, dtype)
        return self.apply({"params": params}, *arrays, train=train)[0], {"params": params}

    def lazy_init(self, key: jax.Array, *arrays: Any, train: bool) -> Any:
        raise InputError(f"{self.calling.what} is a function, which has no first values: give it its variables")

    def clone(self, *, dtype: Any) -> FunctionNetwork:
        raise InputError(
            f"{self.calling.what} is a function and computes in what it computes in: leave the precision at float32"
        )


def _by_name(what: str, arrays: Sequence[inspect.Parameter], keys: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the arguments that are state keys; others must have a default."""
    taken = tuple(p.name for p in arrays if p.name in keys)
    named = [p for p in arrays if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    strangers = [p.name for p in named if p.name not in keys and p.default is p.empty]
    if strangers or not taken:
        name = strangers[0] if strangers else next((p.name for p in arrays), "")
        hint = did_you_mean(name, keys) if name else ""
        raise InputError(
            f"what {what} reads does not follow from its arguments: {name!r} is no key of the state{hint}; "
            "say which keys they are, in order: reads=('tokens', 'mask')"
        )
    return taken


def _specs(what: str, params: Any, path: str = "") -> Iterable[tuple[str, tuple[int, ...], str]]:
    for name, value in params.items():
        here = f"{path}/{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from _specs(what, value, here)
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            yield here, tuple(value.shape), jnp.dtype(value.dtype).name
        else:
            kind = type(value).__name__
            raise InputError(f"the params of {what} must be nested dicts of arrays; {here} is of type {kind}")


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in paths({"params": params}).items()}


def _told(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
