"""How a comparison names its methods, sizes and differences, so that table, picture and sentences say the same."""

from __future__ import annotations

import math

from tl_jax.analysis.intervals import ROUNDING, Interval
from tl_jax.analysis.results import Results, is_scratch

MOST_DECIMALS = 7  # of a difference in points: one that is not rounding shows a digit


def method_words(method: str) -> str:
    """`fine-tuning (lora:rank=8)`, `the linear probe`, `scratch`."""
    name, _, parameters = method.partition(":")
    if name == "probe":
        return f"the linear probe ({parameters})" if parameters else "the linear probe"
    return method if is_scratch(method) else f"fine-tuning ({method})"


def number(value: float) -> str:
    """A count that may be a mean: `36`, `36.5`, `33,674`."""
    return f"{value:,.0f}" if value >= 100 or abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def size_words(results: Results, size: int | None, classes: int) -> str:
    """`at 8 labels a class`, `with all 252 labels, 36 a class`; the mean where a class has fewer than the size."""
    a_class = number(results.labels(size, classes))
    if size is None:
        return f"with all {number(results.examples(size))} labels, {a_class} a class"
    mean = "" if a_class == number(size) else f", {a_class} on average"
    return f"at {size:,} label{'s' * (size != 1)} a class{mean}"


def size_label(results: Results, size: int | None, classes: int) -> str:
    """`8`, `64 (36 a class)`, `all (36 a class)`: as short as a column or an axis wants it."""
    a_class = number(results.labels(size, classes))
    if size is None:
        return f"all ({a_class} a class)"
    return f"{size:,}" if a_class == number(size) else f"{size:,} ({a_class} a class)"


def points(difference: Interval) -> str:
    """`+31 points [27, 35]`: a difference of scores in hundredths; as many decimals as its interval can bear.

    A bound on one side of 0 is not rounded to 0. Without an interval, `+31.2 points`.
    """
    values = [100 * v for v in (difference.mean, difference.low, difference.high) if v is not None]
    decimals = next((d for d in range(MOST_DECIMALS) if _shows(values, d)), MOST_DECIMALS)
    mean, *bounds = (_signed(value, decimals) for value in values)
    unit = "point" if mean in ("1", "−1") else "points"
    plus = "+" if mean.strip("0.") and not mean.startswith("−") else ""
    return f"{plus}{mean} {unit}" + (f" [{', '.join(bounds)}]" if bounds else "")


def times(factor: float) -> str:
    """`about 5×`, `about 1.3×`, `about 120×`: two digits, for a factor that is read off a curve."""
    return f"about {factor:.0f}×" if factor >= 10 else f"about {factor:.2g}×"


def seeds_words(n: int) -> str:
    """`5 seeds`, `1 seed`."""
    return f"{n} seed{'s' * (n != 1)}"


def _shows(values: list[float], decimals: int) -> bool:
    """Whether so many decimals resolve mean and bounds: how wide they are, and which side of 0 each bound is on."""
    mean, *bounds = values
    half = (bounds[1] - bounds[0]) / 2 if bounds else 0.0
    if half > 100 * ROUNDING:
        fine_enough = 10.0**-decimals <= half
    else:
        fine_enough = decimals > 0 or math.isclose(mean, round(mean), abs_tol=1e-6)
    return fine_enough and all(round(abs(v), decimals) > 0 for v in bounds or values if abs(v) > 100 * ROUNDING)


def _signed(value: float, decimals: int) -> str:
    """The number with a true minus, and none before zero."""
    text = f"{abs(value):.{decimals}f}"
    return f"−{text}" if value < 0 and text.strip("0.") else text
