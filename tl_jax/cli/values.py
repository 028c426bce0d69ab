"""How the value of a flag is read: each reader takes the text, and refuses it with what would have been right."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable

from tl_jax.errors import did_you_mean


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` up."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
        return value

    return read


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not value > 0:
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def zero_or_more(text: str) -> float:
    """A finite number, 0 or above."""
    value = _number(text)
    if not value >= 0:
        raise ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return value


def share(text: str) -> float:
    """A part of the whole, above 0 and at most 1: `10%` or `0.1`."""
    value = _share(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text!r} is not a share such as 10% or 0.1")
    return value


def steps_or_share(text: str) -> int | float:
    """A number of steps, an int (`100`), or a share of all steps, a float below 1 (`6%` or `0.06`)."""
    value = _share(text)
    if 0 <= value < 1:
        return value
    if value >= 1 and value.is_integer() and "%" not in text:
        return int(value)
    raise ArgumentTypeError(f"{text!r} is neither a number of steps such as 100 nor a share such as 6% or 0.06")


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader of one word of a few."""

    def read(text: str) -> str:
        if text not in choices:
            raise ArgumentTypeError(f"{text!r} is not known{did_you_mean(text, choices)}")
        return text

    return read


def _share(text: str) -> float:
    return _number(text[:-1]) / 100 if text.endswith("%") else _number(text)


def _number(text: str) -> float:
    """The number; NaN, which no bound lets pass, for anything that is not a finite one."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
