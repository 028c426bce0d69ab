"""What the readers of config.json have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from tl_jax.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def read(
    kind: type[Config], raw: Mapping[str, Any], family: str, required: tuple[str, ...], width: str, heads: str
) -> Config:
    """The dataclass `kind` with those of its fields that a config.json gives; null counts as absent.

    `family` is its name in messages. Raises `InputError` if a key of `required` gives no number, and if what `heads`
    gives does not divide what `width` gives.
    """
    if missing := [key for key in required if not isinstance(raw.get(key), int)]:
        raise InputError(f"config.json of a {family} must have the numbers {', '.join(missing)}")
    if raw[width] % raw[heads]:
        raise InputError(f"config.json: {width} {raw[width]} is not divisible by {heads} {raw[heads]}")
    return kind(**{field.name: raw[field.name] for field in fields(kind) if raw.get(field.name) is not None})
