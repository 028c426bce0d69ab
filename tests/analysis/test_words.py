from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.cells import CLASSES, cell, grid
from tl_jax.analysis.intervals import Interval, interval
from tl_jax.analysis.results import Results
from tl_jax.analysis.words import method_words, number, points, size_label, size_words, times


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("full", "fine-tuning (full)"),
        ("lora:rank=8", "fine-tuning (lora:rank=8)"),
        ("probe", "the linear probe"),
        ("probe:C=1.0", "the linear probe (C=1.0)"),
        ("scratch", "scratch"),
    ],
)
def test_methods(method: str, words: str) -> None:
    assert method_words(method) == words


@pytest.mark.parametrize(
    ("value", "text"), [(36, "36"), (36.51, "36.5"), (36.01, "36"), (33674.5, "33,674"), (1.0, "1"), (0.5, "0.5")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_sizes() -> None:
    results = Results([cell(shots=1), cell(shots=8), cell(shots=64, examples=255), cell(shots=None, examples=255)])
    said = [size_words(results, size, CLASSES) for size in results.sizes]
    assert said == [
        "at 1 label a class",
        "at 8 labels a class",
        "at 64 labels a class, 36.4 on average",
        "with all 255 labels, 36.4 a class",
    ]
    short = [size_label(results, size, CLASSES) for size in results.sizes]
    assert short == ["1", "8", "64 (36.4 a class)", "all (36.4 a class)"]
    assert size_label(grid({"full": {1024: [0.5]}}), 1024, CLASSES) == "1,024"


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Interval(0.31, 0.27, 0.35, 5), "+31 points [27, 35]"),
        (Interval(-0.05, -0.08, -0.02, 5), "−5 points [−8, −2]"),
        (Interval(0.01, -0.03, 0.05, 5), "+1 point [−3, 5]"),
        (Interval(0.0, -0.03, 0.03, 5), "0 points [−3, 3]"),
        (Interval(-0.001, -0.03, 0.028, 5), "0 points [−3, 3]"),
        (Interval(0.008, 0.003, 0.013, 5), "+0.8 points [0.3, 1.3]"),  # an interval of a point needs a decimal
        (Interval(0.04, 0.0002, 0.0798, 5), "+4.00 points [0.02, 7.98]"),  # a bound above 0 is not rounded to 0
        (Interval(0.25, 0.25, 0.25, 5), "+25 points [25, 25]"),
        (Interval(1 / 3, 1 / 3, 1 / 3, 5), "+33.3 points [33.3, 33.3]"),
        (Interval(0.0, 0.0, 0.0, 5), "0 points [0, 0]"),
        (Interval(0.1, 0.1 - 1e-17, 0.1 + 1e-17, 5), "+10 points [10, 10]"),  # the width is rounding
        (Interval(0.312, None, None, 1), "+31.2 points"),
        (Interval(0.0003, None, None, 1), "+0.03 points"),
        (Interval(0.0, None, None, 1), "0 points"),
        (Interval(0.01, None, None, 1), "+1 point"),
    ],
)
def test_points(difference: Interval, text: str) -> None:
    assert points(difference) == text


def signs(text: str) -> list[int]:
    """Of mean and bounds as a reader sees them."""
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", text.replace("−", "-"))]
    return [(n > 0) - (n < 0) for n in numbers]


@given(st.lists(st.integers(-500, 500).map(lambda right: right / 500), min_size=2, max_size=6))
def test_what_is_read_is_on_the_side_of_0_that_the_interval_is_on(values: list[float]) -> None:
    difference = interval(values)
    mean, low, high = signs(points(difference))
    assert (low > 0) == (difference.sign > 0)
    assert (high < 0) == (difference.sign < 0)
    assert mean * difference.mean >= 0


@pytest.mark.parametrize(
    ("factor", "text"), [(5.04, "5×"), (1.34, "1.3×"), (9.94, "9.9×"), (9.97, "10×"), (123, "123×")]
)
def test_times(factor: float, text: str) -> None:
    assert times(factor) == f"about {text}"
