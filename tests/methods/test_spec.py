"""The typed fields of a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.methods.spec import SEPARATOR, Spec, convert, kinds


@dataclass(frozen=True)
class Sample(Spec):
    """One field of each kind."""

    number: int
    rate: float = 0.5
    on: bool = False
    text: str = "a"
    maybe: float | None = None
    name: ClassVar[str] = "sample"


def test_kinds() -> None:
    assert kinds(Sample) == {"number": int, "rate": float, "on": bool, "text": str, "maybe": float}


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"number": "3"}, "sample: number must be a whole number, not '3'"),
        ({"number": True}, "sample: number must be a whole number, not True"),
        ({"number": 3.0}, "sample: number must be a whole number, not 3.0"),
        ({"number": None}, "sample: number must be a whole number, not None"),
        ({"number": 1, "rate": float("nan")}, "sample: rate must be a number, not nan"),
        ({"number": 1, "rate": float("inf")}, "sample: rate must be a number, not inf"),
        ({"number": 1, "rate": True}, "sample: rate must be a number, not True"),
        ({"number": 1, "on": 1}, "sample: on must be true or false, not 1"),
        ({"number": 1, "text": ["query"]}, "sample: text must be text, not ['query']"),
        ({"number": 1, "text": "a,b=c"}, "sample: text must be text, not 'a,b=c'"),
        ({"number": 1, "maybe": "x"}, "sample: maybe must be a number, not 'x'"),
    ],
)
def test_a_value_of_another_type(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as said:
        Sample(**given_)
    assert str(said.value) == message


def test_the_text_is_canonical() -> None:
    assert str(Sample(1)) == "sample:number=1,rate=0.5,on=false,text=a"
    assert str(Sample(1, maybe=16)) == str(Sample(1, maybe=16.0)) == "sample:number=1,rate=0.5,on=false,text=a,maybe=16"
    assert Sample(1, maybe=16) == Sample(1, maybe=16.0)


plain = st.text().filter(lambda s: s == s.strip() and not SEPARATOR.search(s))
samples = st.builds(
    Sample,
    number=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    on=st.booleans(),
    text=plain,
    maybe=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(samples)
def test_every_field_is_read_back_from_the_text(sample: Sample) -> None:
    pieces = [piece.partition("=") for piece in SEPARATOR.split(str(sample).removeprefix("sample:"))]
    read = {name: convert(value, kinds(Sample)[name], name) for name, _, value in pieces}
    assert Sample(**read) == sample


@pytest.mark.parametrize("text", ["__import__('os')", "1+1", "[1]", "1;2", ""])
def test_nothing_is_evaluated(text: str) -> None:
    for kind in (int, float, bool):
        with pytest.raises(InputError, match="x must be"):
            convert(text, kind, "x")
    assert convert(text, str, "x") == text
