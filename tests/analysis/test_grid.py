from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.analysis.grid import listed_methods, seed_numbers, sizes
from tl_jax.errors import InputError


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("full", ["full"]),
        ("scratch, probe ,full", ["scratch", "probe", "full"]),
        ("scratch,lora:rank=8,targets=query|value,full", ["scratch", "lora:rank=8,targets=query|value", "full"]),
        ("lora:rank=8 , alpha=16,probe:C=10", ["lora:rank=8 , alpha=16", "probe:C=10"]),
        ("lora:targets=layers_[0-9]{1,2}/query,probe", ["lora:targets=layers_[0-9]{1,2}/query", "probe"]),
        ("probe,lroa:rank=3", ["probe", "lroa:rank=3"]),  # a misspelt name is still a name, and named as such later
    ],
)
def test_a_comma_separates_methods_or_their_parameters(text: str, listed: list[str]) -> None:
    assert listed_methods(text) == listed


@pytest.mark.parametrize(
    ("shots", "found"),
    [
        ("8,all", (8, None)),
        ("all, 8,32", (8, 32, None)),
        (8, (8,)),
        ("all", (None,)),
        (None, (None,)),
        ([32, "all", "4"], (4, 32, None)),
    ],
)
def test_sizes_ascend_and_all_comes_last(shots: Any, found: tuple[int | None, ...]) -> None:
    assert sizes(shots) == found


@given(st.lists(st.integers(1, 999), min_size=1, unique=True))
def test_sizes_as_text_and_as_numbers_agree(shots: list[int]) -> None:
    assert sizes(",".join(map(str, shots))) == sizes(shots) == tuple(sorted(shots))


def test_seeds() -> None:
    assert seed_numbers(3) == (0, 1, 2)
    assert seed_numbers([7, 3]) == (7, 3)


@pytest.mark.parametrize(
    ("read", "given", "message"),
    [
        (listed_methods, "", "--methods '' has an empty place: a method is missing"),
        (listed_methods, "full,,probe", "has an empty place"),
        (sizes, "8,,all", "--shots '8,,all' has an empty place"),
        (sizes, "8,some", "--shots takes labels a class, such as 8, or all, not 'some'"),
        (sizes, "0", "not '0'"),
        (sizes, [], "--shots needs a size"),
        (sizes, 2.5, "not 2.5"),
        (sizes, True, "not True"),
        (sizes, "8,all,8", "--shots names 8 twice"),
        (sizes, "all,all", "--shots names all twice"),
        (seed_numbers, 0, "--seeds is how many, at least 1"),
        (seed_numbers, [], "--seeds is how many"),
        (seed_numbers, "three", "--seeds is how many"),
        (seed_numbers, [1, -1], "--seeds is how many"),
        (seed_numbers, [1, 1], "--seeds names 1 twice"),
    ],
)
def test_mistakes(read: Any, given: Any, message: str) -> None:
    with pytest.raises(InputError) as said:
        read(given)
    assert message in str(said.value)
