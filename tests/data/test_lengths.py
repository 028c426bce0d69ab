from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.data.lengths import BATCHES, SAVING, bucket_lengths


def area(lengths, buckets):
    return sum(min(b for b in buckets if b >= n) for n in lengths)


def least_area(lengths, k):
    """By trying every choice of at most k multiples of 8."""
    values = sorted({-(-n // 8) * 8 for n in lengths})
    rest, top = values[:-1], values[-1]
    return min(area(lengths, (*some, top)) for j in range(min(k, len(values))) for some in combinations(rest, j))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(1, 5))
def test_against_every_choice(lengths, most):
    found = bucket_lengths(np.array(lengths), 1, most=most)
    expected, k_expected = least_area(lengths, 1), 1
    for k in range(2, min(most, len({-(-n // 8) for n in lengths})) + 1):
        one = least_area(lengths, k)
        if len(lengths) >= BATCHES * k and one <= expected * (1 - SAVING) ** (k - k_expected):
            expected, k_expected = one, k
    assert area(lengths, found) == expected
    assert len(found) == k_expected
    assert list(found) == sorted(set(found)) and all(b % 8 == 0 for b in found)
    assert max(lengths) <= found[-1] < max(lengths) + 8


def test_order_does_not_matter():
    lengths = np.random.default_rng(0).integers(1, 200, 1000)
    assert bucket_lengths(lengths, 4) == bucket_lengths(np.sort(lengths), 4)


def test_few_batches_get_one_length():
    lengths = np.array([8] * 100 + [64] * 100)
    assert bucket_lengths(lengths, 8) == (8, 64)
    assert bucket_lengths(lengths, 32) == (64,)


def test_a_small_saving_is_not_worth_a_length():
    assert bucket_lengths(np.array([56] * 100 + [64] * 900), 1) == (64,)
    assert bucket_lengths(np.array([56] * 500 + [64] * 500), 1) == (56, 64)


def test_many_lengths_are_quick_and_at_most_four():
    assert len(bucket_lengths(np.random.default_rng(0).integers(1, 8192, 100_000), 32)) == 4
