"""How far a mean over seeds can be trusted: Student's t-interval, and the same for a difference over equal seeds.

An interval is over what a seed decides: which examples were drawn, the first values, the order. What other examples
to score on would change is not in it. Whoever reads twenty of them should expect one that misses the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
ROUNDING = 1e-9  # scores that differ by less differ by the rounding of float64, not by a prediction


@dataclass(frozen=True)
class Interval:
    """The mean of `n` values and the 95 % interval around it; one value has none, and `low` and `high` are None."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of what lies between the bounds: the number after the ±."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0 as a whole; 0 where it does not, or where there is none."""
        if self.low is not None and self.low > ROUNDING:
            return 1
        return -1 if self.high is not None and self.high < -ROUNDING else 0


def interval(values: Sequence[float]) -> Interval:
    """Mean ± t · s / √n, where s² is the unbiased variance and t the 97.5 % point of Student's t with n-1 degrees.

    (Student, "The probable error of a mean", Biometrika 1908.) Values that are all equal give an interval of width 0.
    The order of the values changes no bit. At least one value.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    if min(values) == max(values):  # else the rounding of the mean would leave a width
        return Interval(values[0], values[0], values[0], n)
    half = _half_width(math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)), n)
    return Interval(mean, mean - half, mean + half, n)


def _half_width(deviation: float, n: int) -> float:
    """Of the interval around the mean of `n` values of that deviation; 0 for one value, which has none."""
    from scipy.special import stdtrit  # the inverse of Student's distribution, without the second scipy.stats takes

    return float(stdtrit(n - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(n) if n > 1 else 0.0


def paired(one: Mapping[int, float], other: Mapping[int, float], *, resolution: float = 0.0) -> Interval | None:
    """The interval of `one` minus `other`, scores by seed, over the seeds that both have; None where there are none.

    A seed draws the same examples for every method, so how easy a draw was cancels in the difference. `resolution` is
    the step between two scores (1 / examples scored): each is rounded to it, so a difference deviates by `resolution` /
    √6 at least, however equal the seeds look. Without that, two seeds that differ alike would prove anything.
    """
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    found = interval([one[seed] - other[seed] for seed in seeds])
    least = _half_width(resolution / math.sqrt(6), found.n)
    if found.half_width is None or found.half_width >= least:
        return found
    return Interval(found.mean, found.mean - least, found.mean + least, found.n)
