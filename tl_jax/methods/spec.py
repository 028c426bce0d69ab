"""What the parameters of a method are: the typed fields of a frozen dataclass, also writable as one line of text."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from typing import Any, ClassVar, get_args, get_type_hints

from tl_jax.errors import InputError

SEPARATOR = re.compile(r",(?=\s*\w+\s*=)")  # a comma that is followed by `name=`; others belong to the value
_WORDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """The base of method dataclasses: checks its fields against their annotations; `str()` is the canonical text.

    Fields are `int`, `float`, `bool` or `str`, or one of these `| None` where None means "not given". Raises
    `InputError` for values of another type.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            value = getattr(self, name)
            if value is None and _is_optional(type(self), name):
                continue
            if not _fits(value, kind):
                raise InputError(f"{self.name}: {name} must be {_WORDS[kind]}, not {value!r}")

    def __str__(self) -> str:
        """`lora:rank=8,targets=query|value,rslora=false`: every parameter that is not None, in the order of fields."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        listed = ",".join(f"{name}={_text(value)}" for name, value in given.items() if value is not None)
        return f"{self.name}:{listed}" if listed else self.name


def kinds(cls: type[Spec]) -> dict[str, type]:
    """`{field: int, float, bool or str}`, in the order of the fields."""
    hints = get_type_hints(cls)
    found: dict[str, type] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        found[field.name] = next(t for t in get_args(hint) or (hint,) if t is not types.NoneType)
    return found


def convert(text: str, kind: type, what: str) -> Any:
    """The value that `text` writes; raises `InputError` saying what `what` must be. Nothing is evaluated."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise InputError(f"{what} must be {_WORDS[kind]}, not {text!r}") from None


def describe(kind: type) -> str:
    """What a parameter of that type must be, in words."""
    return _WORDS[kind]


def _is_optional(cls: type[Spec], name: str) -> bool:
    return types.NoneType in get_args(get_type_hints(cls)[name])


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:  # as text it must come back from the line it is written in
        return isinstance(value, str) and value == value.strip() and not SEPARATOR.search(value)
    return type(value) is kind


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(float(value)).removesuffix(".0")
    return str(value)
