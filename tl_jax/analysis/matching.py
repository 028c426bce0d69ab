"""How many labels a method needs to reach a score: read off the curve of its measured means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def labels_to_match(points: Sequence[tuple[float, float]], score: float) -> float | None:
    """The fewest labels at which the curve through `points` reaches `score`; None where it never does.

    `points` are (labels, mean score) by ascending labels, at least one. Between two neighbours the curve is linear in
    the logarithm of labels, as learning curves nearly are; beyond the ends it is not guessed at. A curve that is not
    monotone counts where it first reaches the score.
    """
    first, start = points[0]
    if start >= score:
        return first
    for (fewer, low), (more, high) in pairwise(points):
        if high >= score:  # and low is below it, or the loop had ended
            part = (score - low) / (high - low)
            return math.exp((1 - part) * math.log(fewer) + part * math.log(more))
    return None
