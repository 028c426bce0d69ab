"""The figures of a comparison, method by method and size by size: as text to read, and as data to keep."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from tl_jax.analysis.intervals import Interval, interval
from tl_jax.analysis.results import Result, Results
from tl_jax.analysis.words import size_label
from tl_jax.tabular import columns

HEADER = ("method", "labels a class", "score, %", "seeds", "seconds a run", "parameters trained")


def text_table(results: Results, *, classes: int) -> str:
    """A line for each method and size that has a finished cell; how to read the ± stands below."""
    rows = _rows(results)
    scores = _scores([interval([cell.score for cell in cells]) for cells in rows])
    body = [
        (
            cells[0].method,
            size_label(results, cells[0].shots, classes),
            score,
            str(len(cells)),
            f"{fmean(cell.seconds for cell in cells):,.1f}",
            _range([cell.parameters for cell in cells]),
        )
        for cells, score in zip(rows, scores, strict=True)
    ]
    lines = columns([HEADER, *body])
    if any(len(cells) > 1 for cells in rows):
        lines.append("±: half of the 95 % interval of the mean over seeds (Student's t)")
    return "\n".join(lines)


def json_table(results: Results, *, classes: int) -> dict[str, Any]:
    """The same, ready for JSON. All that a clock decided is under `time`: the rest is equal for equal comparisons."""
    rows = _rows(results)
    return {
        "classes": classes,
        "rows": [_row(results, cells, classes) for cells in rows],
        "time": [
            {
                **_place(cells[0]),
                "seconds": fmean(cell.seconds for cell in cells),
                "by_seed": {str(cell.seed): cell.seconds for cell in cells},
            }
            for cells in rows
        ],
    }


def _rows(results: Results) -> list[tuple[Result, ...]]:
    """The cells of each line."""
    places = [(method, size) for method in results.methods for size in results.sizes]
    return [cells for place in places if (cells := results.of(*place))]


def _row(results: Results, cells: tuple[Result, ...], classes: int) -> dict[str, Any]:
    first = cells[0]
    measured = interval([cell.score for cell in cells])
    return {
        **_place(first),
        "labels_per_class": results.labels(first.shots, classes),
        "score": {"mean": measured.mean, "low": measured.low, "high": measured.high},
        "by_seed": {
            str(cell.seed): {
                "score": cell.score,
                "examples": cell.examples,
                "parameters": cell.parameters,
                "learning_rate": cell.learning_rate,
            }
            for cell in cells
        },
    }


def _place(cell: Result) -> dict[str, Any]:
    return {"method": cell.method, "shots": cell.shots}


def _scores(measured: list[Interval]) -> list[str]:
    """`83.1 ± 2.4`, the means under each other and the ± too; a single seed has the mean alone."""
    means = [f"{100 * m.mean:.1f}" for m in measured]
    halves = ["" if m.half_width is None else f"{100 * m.half_width:.1f}" for m in measured]
    wide, narrow = max(map(len, means)), max(map(len, halves))
    gap = " ± " if narrow else ""
    return [
        mean.rjust(wide) + (gap if half else " " * len(gap)) + half.rjust(narrow)
        for mean, half in zip(means, halves, strict=True)
    ]


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
