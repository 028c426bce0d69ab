"""Values of flags: what is read, and what is refused with what would have been right."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.cli.values import above_zero, one_of, share, steps_or_share, whole, zero_or_more


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (whole(1), "1", 1),
        (whole(0), "0", 0),
        (above_zero, "0.5", 0.5),
        (zero_or_more, "0", 0.0),
        (zero_or_more, "3e-5", 3e-5),
        (share, "10%", 0.1),
        (share, "0.1", 0.1),
        (share, "100%", 1.0),
        (steps_or_share, "0", 0.0),
        (steps_or_share, "6%", 0.06),
        (steps_or_share, "0.06", 0.06),
        (one_of("table", "json"), "json", "json"),
    ],
)
def test_read(read: Callable[[str], Any], text: str, value: Any) -> None:
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (whole(1), "0", "'0' is not a whole number from 1 up"),
        (whole(1), "1.5", "'1.5' is not a whole number from 1 up"),
        (whole(0), "-1", "'-1' is not a whole number from 0 up"),
        (above_zero, "0", "'0' is not a number above 0"),
        (above_zero, "nan", "'nan' is not a number above 0"),
        (zero_or_more, "-0.1", "'-0.1' is not a number from 0 up"),
        (zero_or_more, "inf", "'inf' is not a number from 0 up"),
        (zero_or_more, "", "'' is not a number from 0 up"),
        (share, "0", "'0' is not a share such as 10% or 0.1"),
        (share, "10", "'10' is not a share such as 10% or 0.1"),
        (share, "101%", "'101%' is not a share such as 10% or 0.1"),
        (steps_or_share, "1.5", "'1.5' is neither a number of steps such as 100 nor a share such as 6% or 0.06"),
        (steps_or_share, "100%", "'100%' is neither a number of steps such as 100 nor a share such as 6% or 0.06"),
        (steps_or_share, "-1", "'-1' is neither a number of steps such as 100 nor a share such as 6% or 0.06"),
        (one_of("table", "json"), "jsn", "'jsn' is not known; did you mean 'json'?"),
    ],
)
def test_refuse(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        read(text)
    assert str(refused.value) == message


@given(st.integers(1, 10**9))
def test_a_number_of_steps_stays_whole(steps: int) -> None:
    assert steps_or_share(str(steps)) == steps
    assert isinstance(steps_or_share(str(steps)), int)


@given(st.floats(0, 1, exclude_max=True))
def test_a_share_of_the_steps_stays_a_float(part: float) -> None:
    assert steps_or_share(repr(part)) == part
    assert isinstance(steps_or_share(repr(part)), float)
