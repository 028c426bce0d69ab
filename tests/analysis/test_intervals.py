from __future__ import annotations

import math
import random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.analysis.intervals import Interval, interval, paired

scores = st.integers(0, 1000).map(lambda right: right / 1000)
several = st.lists(scores, min_size=2, max_size=12)


@given(several.filter(lambda values: len(set(values)) > 1))
def test_equal_to_scipys_one_sample_interval(values: list[float]) -> None:
    theirs = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    ours = interval(values)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)
    assert ours.mean == pytest.approx(np.mean(values), abs=1e-15)
    assert ours.n == len(values)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_paired_is_equal_to_scipys(rng: np.random.Generator, n: int) -> None:
    one, other = rng.random(n), rng.random(n)
    theirs = scipy.stats.ttest_rel(one, other).confidence_interval(0.95)
    ours = paired(dict(enumerate(one)), dict(enumerate(other)))
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (6, 2.571), (10, 2.262), (31, 2.042)])
def test_students_table(n: int, t: float) -> None:
    """The two-sided 95 % points as every textbook prints them."""
    values = [*range(n)]
    assert interval(values).half_width == pytest.approx(t * np.std(values, ddof=1) / math.sqrt(n), rel=2e-4)


def test_students_own_example() -> None:
    """Cushny and Peebles' additional hours of sleep under two drugs (Student 1908, p. 20): a mean gain of 1.58 h."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    gain = paired(dict(enumerate(second)), dict(enumerate(first)))
    assert gain is not None
    assert (gain.mean, gain.low, gain.high) == pytest.approx((1.58, 0.70, 2.46), abs=0.005)
    assert gain.sign == 1


def test_one_value_has_no_interval() -> None:
    one = interval([0.7])
    assert one == Interval(0.7, None, None, 1)
    assert one.half_width is None
    assert one.sign == 0


@given(scores, st.integers(2, 9))
def test_equal_values_have_an_interval_of_width_0(value: float, n: int) -> None:
    assert interval([value] * n) == Interval(value, value, value, n)


def test_only_common_seeds_are_paired() -> None:
    one, other = {0: 0.5, 1: 0.75, 2: 1.0}, {3: 0.0, 2: 0.5, 1: 0.5}
    assert paired(one, other) == interval([0.25, 0.5])
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_pairing_cancels_what_a_draw_gives_to_all() -> None:
    draws = [0.1, 0.3, 0.5, 0.7]
    one = {seed: draw + 0.0625 + 0.001 * (seed % 2) for seed, draw in enumerate(draws)}
    difference = paired(one, dict(enumerate(draws)))
    assert difference is not None
    assert difference.sign == 1
    assert interval([*one.values()]).low < interval(draws).mean  # which unpaired intervals could not tell


def test_rounding_is_no_difference() -> None:
    noise = paired({0: 0.1 + 0.2, 1: 0.1 + 0.2}, {0: 0.3, 1: 0.3})
    assert noise is not None
    assert noise.low is not None and noise.low > 0  # the sum of 0.1 and 0.2 lies above 0.3
    assert noise.sign == 0


@given(several, st.randoms(use_true_random=False))
def test_the_order_changes_no_bit(values: list[float], order: random.Random) -> None:
    assert interval(order.sample(values, len(values))) == interval(values)


@given(several, st.floats(-3, 3), st.sampled_from([0.125, 0.5, 2.0, 8.0]))
def test_shift_and_scale(values: list[float], shift: float, scale: float) -> None:
    plain, other = interval(values), interval([scale * value + shift for value in values])
    assert plain.low is not None and plain.high is not None
    expected = (scale * plain.mean + shift, scale * plain.low + shift, scale * plain.high + shift)
    assert (other.mean, other.low, other.high) == pytest.approx(expected, abs=1e-9)


@given(several, several)
def test_the_other_way_round_is_the_negative(one: list[float], other: list[float]) -> None:
    a, b = dict(enumerate(one)), dict(enumerate(other))
    there, back = paired(a, b), paired(b, a)
    assert there is not None and back is not None
    assert there.low is not None and there.high is not None
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-12)
    assert back.sign == -there.sign


@given(st.integers(2, 6), st.integers(10, 500), st.integers(-20, 20))
def test_equal_differences_prove_no_more_than_their_rounding_allows(n: int, scored: int, more: int) -> None:
    """Scores are counts of examples: that two seeds differ by the same count is chance where the count is small."""
    one = dict.fromkeys(range(n), 0.5 + more / scored)
    found = paired(one, dict.fromkeys(one, 0.5), resolution=1 / scored)
    assert found is not None and found.half_width is not None
    assert found.half_width == pytest.approx(scipy.stats.t.ppf(0.975, n - 1) / scored / np.sqrt(6 * n), rel=1e-6)
    if n == 2 and abs(more) <= 3:
        assert found.sign == 0
    if n == 3 and abs(more) >= 2:
        assert found.sign == np.sign(more)


def test_a_wide_interval_is_left_as_it_is() -> None:
    one, other = {0: 0.5, 1: 0.75, 2: 0.625}, {0: 0.25, 1: 0.25, 2: 0.25}
    assert paired(one, other, resolution=1 / 160) == paired(one, other)
    assert paired({0: 0.5}, {0: 0.25}, resolution=0.1) == interval([0.25])
