"""Comparisons written down by hand or drawn, for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from tl_jax.analysis.results import Result, Results

CLASSES = 7
ALL = 36  # labels a class where all are used


def cell(method: str = "full", shots: int | None = 8, seed: int = 0, score: float = 0.5, **others: object) -> Result:
    """A cell whose other fields do not matter unless given."""
    fields = {"examples": CLASSES * (ALL if shots is None else shots), "seconds": 12.5, "parameters": 1000} | others
    return Result(method, shots, seed, score, **fields)  # type: ignore[arg-type]


def grid(scores: Mapping[str, Mapping[int | None, Sequence[float]]]) -> Results:
    """`{method: {size: scores of seeds 0, 1, …}}` as results."""
    return Results(
        [
            cell(method, size, seed, score)
            for method, by_size in scores.items()
            for size, by_seed in by_size.items()
            for seed, score in enumerate(by_seed)
        ]
    )


METHODS = ("full", "lora:rank=8", "probe", "scratch")
SIZES = (8, 16, None)


@st.composite
def comparisons(draw: st.DrawFn, methods: Sequence[str] = METHODS) -> list[Result]:
    """Cells of up to 4 methods, 3 sizes and 4 seeds, some of them missing; scores are counts of right answers.

    The seeds of a method and size lie near each other, so that some differences are shown and some are not.
    """
    methods = draw(st.lists(st.sampled_from(methods), min_size=1, unique=True))
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, unique=True))
    seeds = range(draw(st.integers(1, 4)))
    spread = st.integers(0, draw(st.sampled_from([0, 3, 20])))
    places = [(method, size, seed) for method in methods for size in sizes for seed in seeds]
    centre = {(method, size): draw(st.integers(0, 180)) for method in methods for size in sizes}
    cells = [cell(method, size, seed, (centre[method, size] + draw(spread)) / 200) for method, size, seed in places]
    missing = draw(st.sets(st.sampled_from(places), max_size=len(places) - 1)) if draw(st.booleans()) else set()
    return [c for c in cells if (c.method, c.shots, c.seed) not in missing]
