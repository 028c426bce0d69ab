"""Records (dicts) to columns, when all of them must have the same keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tl_jax.errors import InputError, nearest


def columns_of(records: Sequence[Mapping[str, Any]], where: Callable[[int], str]) -> dict[str, list[Any]]:
    """The columns of `records`; the first record says which keys there are.

    `where(i)` says in words where record `i` comes from. Raises InputError for the first record that lacks a key
    or has one more.
    """
    keys = records[0].keys()
    for i, record in enumerate(records):
        if record.keys() != keys:
            raise InputError(_difference(list(keys), list(record), where(i), where(0)))
    return {str(key): [record[key] for record in records] for key in keys}


def _difference(expected: list[str], found: list[str], here: str, first: str) -> str:
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    if not missing:
        return f"{here}: the key {extra[0]!r} is not in {first}, and all examples need the same keys (use null)"
    close = nearest(missing[0], extra, n=1)
    hint = f"; is {close[0]!r} meant?" if close else f" (the keys of {first}: {', '.join(map(str, expected))})"
    return f"{here}: the key {missing[0]!r} is missing{hint}"
