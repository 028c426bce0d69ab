"""How far a mean over seeds can be trusted: Student's t-interval, and the same for a difference over equal seeds.

Each interval holds the true mean in 95 of 100 repetitions, taken by itself. Whoever reads twenty of them should
expect one that does not.
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
    from scipy.special import stdtrit  # the inverse of Student's distribution, without the second scipy.stats takes

    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    if min(values) == max(values):  # else the rounding of the mean would leave a width
        return Interval(values[0], values[0], values[0], n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Interval | None:
    """The interval of `one` minus `other`, scores by seed, over the seeds that both have; None where there are none.

    A seed draws the same examples for every method, so how easy a draw was cancels in the difference.
    """
    seeds = sorted(one.keys() & other.keys())
    return interval([one[seed] - other[seed] for seed in seeds]) if seeds else None
