from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tl_jax.analysis.matching import labels_to_match

scores = st.integers(0, 1000).map(lambda right: right / 1000)


@st.composite
def curves(draw: st.DrawFn) -> list[tuple[float, float]]:
    labels = sorted(draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True)))
    return [(float(x), draw(scores)) for x in labels]


@pytest.mark.parametrize(
    ("points", "score", "labels"),
    [
        ([(8, 0.2), (32, 0.6)], 0.4, 16),  # half of the way up is half of the way in the logarithm
        ([(8, 0.2), (32, 0.6)], 0.6, 32),  # exactly reached
        ([(8, 0.2), (32, 0.6)], 0.7, None),  # not guessed at beyond the end
        ([(8, 0.2), (32, 0.6)], 0.1, 8),  # reached where the curve begins
        ([(8, 0.2)], 0.5, None),
        ([(8, 0.2), (16, 0.2), (64, 0.4)], 0.3, 32),  # past a plateau
        ([(8, 0.2), (16, 0.1), (64, 0.3)], 0.2 + 1e-9, 32),  # past a dip
        ([(8, 0.2), (32, 0.6), (64, 0.1), (128, 0.9)], 0.4, 16),  # the first time, not the last
        ([(8, 0.2), (36, 0.3), (36, 0.5)], 0.4, 36),  # two sizes of as many labels
    ],
)
def test_by_hand(points: list[tuple[float, float]], score: float, labels: float | None) -> None:
    found = labels_to_match(points, score)
    assert found == (labels if labels is None else pytest.approx(labels))


@given(curves(), scores)
def test_the_curve_has_the_score_there_and_not_before(points: list[tuple[float, float]], score: float) -> None:
    found = labels_to_match(points, score)
    x, y = np.log([p[0] for p in points]), np.array([p[1] for p in points])
    if found is None:
        assert y.max() < score
        return
    at = np.interp(np.log(found), x, y)
    assert at == pytest.approx(score, abs=1e-9) or (found == points[0][0] and at >= score)
    assert all(p[1] < score for p in points if p[0] < found * (1 - 1e-12))


@given(curves(), scores, st.sampled_from([0.25, 2.0, 10.0]), st.sampled_from([-0.5, 0.25]))
def test_units_do_not_matter(points: list[tuple[float, float]], score: float, scale: float, shift: float) -> None:
    """Labels in total or a class, scores in % or not: the same factor."""
    assume(all(abs(y - score) > 1e-6 for _, y in points))  # else rounding decides whether it is reached
    found = labels_to_match(points, score)
    other = labels_to_match([(scale * x, 2 * y + shift) for x, y in points], 2 * score + shift)
    assert other == (None if found is None else pytest.approx(scale * found))


@given(curves(), scores, scores)
def test_a_higher_score_needs_no_fewer(points: list[tuple[float, float]], one: float, other: float) -> None:
    low, high = (labels_to_match(points, score) for score in sorted((one, other)))
    assert high is None or (low is not None and low <= high * (1 + 1e-12))
