"""What the readers of config.json have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from tl_jax.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LARGEST, _DEEPEST = (1 << 31) - 1, 1000  # no model is wider or deeper, and a mistake is told before it is built
Config = TypeVar("Config", bound="DataclassInstance")


def read(
    kind: type[Config], raw: Mapping[str, Any], family: str, required: tuple[str, ...], width: str, heads: str
) -> Config:
    """The dataclass `kind` with those of its fields that a config.json gives; null counts as absent.

    `family` is its name in messages. Raises `InputError` for a key of `required` that is missing, for a value that is
    not of its field's type, or is a number no model has, and if what `heads` gives does not divide what `width` gives.
    """
    given = checked(kind, raw, family, required)
    if raw[width] % raw[heads]:
        raise InputError(f"config.json: {width} {raw[width]} is not divisible by {heads} {raw[heads]}")
    return kind(**given)


def checked(
    kind: type[Config], raw: Mapping[str, Any], family: str, required: tuple[str, ...], positive: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Those of the fields of `kind` that a config.json gives, by name; null counts as absent.

    Raises `InputError` as `read` does, and for a 0 under a key of `positive`.
    """
    if missing := [key for key in required if raw.get(key) is None]:
        raise InputError(f"config.json of a {family} must have the numbers {', '.join(missing)}")
    given = {field.name: raw[field.name] for field in fields(kind) if raw.get(field.name) is not None}
    for field in fields(kind):
        if field.name in given and (wrong := _wrong(given[field.name], field, field.name in (*required, *positive))):
            raise InputError(f"config.json: {field.name} must be {wrong}, not {given[field.name]!r:.99}")
    return given


def _wrong(value: Any, field: Field[Any], positive: bool) -> str | None:
    """What the value of a field must be by the field's annotation, if it is something else."""
    kind = str(field.type)
    if kind.startswith("int"):
        least, most = int(positive), _DEEPEST if "layers" in field.name else _LARGEST
        return None if type(value) is int and least <= value <= most else f"a whole number from {least} to {most:,}"
    if kind.startswith("float"):
        return None if type(value) in (int, float) and math.isfinite(value) else "a finite number"
    if kind.startswith("bool"):
        return None if type(value) is bool else "true or false"
    return None if type(value) is str or not kind.startswith("str") else "a text"
