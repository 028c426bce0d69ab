"""Which cells a comparison has: methods × sizes × seeds, as the user writes them. No jax here."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any

from tl_jax.errors import InputError

METHODS = "scratch,probe,lp_ft"
SHOTS = "8,all"
SEEDS = 3

# A comma before a method's name; others belong to the parameters of a method.
_BETWEEN = re.compile(r",(?=\s*[A-Za-z_]\w*\s*(?:[,:]|$))")
_ALL = "all"


def listed_methods(text: str) -> list[str]:
    """`"scratch,lora:rank=8,targets=query,full"` as three texts. Raises `InputError` for an empty one."""
    return _listed(_BETWEEN.split(text), "--methods", "a method")


def sizes(given: Any) -> tuple[int | None, ...]:
    """Sizes of training sets in labels a class, ascending, None for all: from `"8,all"`, `[8, "all"]`, 8 or None.

    Raises `InputError` for what is neither a whole number above 0 nor `all`, and for a size given twice.
    """
    parts = _listed(given.split(","), "--shots", "a size") if isinstance(given, str) else _several(given)
    found = [_size(part) for part in parts]
    _check_once([_ALL if size is None else str(size) for size in found], "--shots")
    return tuple(sorted(found, key=lambda size: float("inf") if size is None else size))


def seed_numbers(given: Any) -> tuple[int, ...]:
    """Seeds: 3 is 0, 1, 2; a list of seeds is itself. Raises `InputError` for what is neither, or a seed twice."""
    if isinstance(given, int) and not isinstance(given, bool):
        given = range(given)
    try:
        found = tuple(operator.index(seed) for seed in given)
    except TypeError:
        found = ()
    if not found or min(found) < 0 or max(found) >= 2**32:
        raise InputError(
            "--seeds is how many, at least 1 (3 is the seeds 0, 1 and 2), or in Python a list of seeds below 2**32"
        )
    _check_once([str(seed) for seed in found], "--seeds")
    return found


def _size(part: Any) -> int | None:
    if part is None or part == _ALL:
        return None
    try:
        count = int(part) if isinstance(part, str) else operator.index(part)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or isinstance(part, bool):
        raise InputError(f"--shots takes labels a class, such as 8, or {_ALL}, not {part!r}; write 8,32,{_ALL}")
    return count


def _several(given: Any) -> list[Any]:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    found = list(given) if several else [given]
    if not found:
        raise InputError(f"--shots needs a size: labels a class, such as 8, or {_ALL}")
    return found


def _listed(parts: list[str], flag: str, what: str) -> list[str]:
    found = [part.strip() for part in parts]
    if not all(part.strip(",") == part != "" for part in found):
        raise InputError(f"{flag} {','.join(parts)!r} has an empty place: {what} is missing")
    return found


def _check_once(names: list[str], flag: str) -> None:
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"{flag} names {twice[0]} twice")
