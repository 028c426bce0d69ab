"""Methods as text: `lora:rank=8,targets=query|value`. Parsed by the types of the parameters, never evaluated."""

from __future__ import annotations

import dataclasses
from typing import Any

from tl_jax import methods
from tl_jax.errors import InputError, did_you_mean
from tl_jax.methods.plan import Method
from tl_jax.methods.spec import SEPARATOR, Spec, convert, describe, kinds


def parse(spec: str | Method) -> Method:
    """The method that `NAME` or `NAME:PARAMETER=VALUE,…` writes; a method object is returned as it is.

    `str()` of a method is such a text and parses back to an equal one. Raises `InputError` for an unknown method or
    parameter (with the nearest), a value of the wrong type (with what is expected), a parameter missing or given twice.
    """
    if not isinstance(spec, str):
        if callable(spec) and hasattr(spec, "name"):
            return spec
        raise InputError(f"a method is a text such as 'lora:rank=8' or a method object, not {spec!r}")
    name, _, rest = spec.partition(":")
    name = name.strip()
    if name not in methods.METHODS:
        raise InputError(f"unknown method {name!r}{did_you_mean(name, methods.METHODS)}")
    cls: type[Spec] = getattr(methods, name)
    given = _parameters(name, rest, kinds(cls))
    for field in dataclasses.fields(cls):
        if field.name not in given and field.default is dataclasses.MISSING:
            raise InputError(f"{name} needs {field.name}, {describe(kinds(cls)[field.name])}: {name}:{field.name}=…")
    method: Any = cls(**given)
    return method


def _parameters(method: str, text: str, types: dict[str, type]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for part in SEPARATOR.split(text) if text.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            form = f"; write {method}:{next(iter(types))}={name}" if types else ""
            raise InputError(f"{method}: {name!r} is not of the form parameter=value{form}")
        if name not in types:
            hint = did_you_mean(name, types) or "; it has none"
            raise InputError(f"{method} has no parameter {name!r}{hint}")
        if name in given:
            raise InputError(f"{method}: {name} is given twice")
        given[name] = convert(value, types[name], f"{method}: {name}")
    return given
