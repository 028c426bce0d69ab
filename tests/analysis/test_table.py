from __future__ import annotations

import json
import random

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.cells import CLASSES, cell, comparisons, grid
from tl_jax.analysis.results import Result, Results
from tl_jax.analysis.table import json_table, text_table


def test_as_it_is_printed() -> None:
    cells = [
        cell("full", 8, 0, 0.60, seconds=10, parameters=22_713_223),
        cell("full", 8, 1, 0.62, seconds=12, parameters=22_713_223),
        cell("full", None, 0, 1.0, seconds=1234.56, parameters=22_713_223),
        cell("lora:rank=8", 8, 0, 0.5, seconds=3, parameters=300_295),
        cell("lora:rank=8", 8, 1, 0.5, seconds=3, parameters=300_299),
        cell("scratch", 64, 0, 0.05, seconds=9, parameters=22_713_223, examples=252),
    ]
    assert text_table(Results(cells), classes=CLASSES).splitlines() == [
        "method         labels a class      score, %  seeds  seconds a run  parameters trained",
        "full                        8   61.0 ± 12.7      2           11.0          22,713,223",
        "full         all (36 a class)  100.0             1        1,234.6          22,713,223",
        "lora:rank=8                 8   50.0 ±  0.0      2            3.0  300,295 to 300,299",
        "scratch       64 (36 a class)    5.0             1            9.0          22,713,223",
        "±: half of the 95 % interval of the mean over seeds (Student's t)",
    ]


def test_one_seed_has_no_plus_minus() -> None:
    assert "±" not in text_table(grid({"full": {8: [0.5]}, "probe": {8: [1.0]}}), classes=CLASSES)


def test_as_data() -> None:
    results = Results([cell("full", 8, 1, 0.5, learning_rate=2e-4), cell("full", 8, 0, 0.75, seconds=10.5)])
    table = json_table(results, classes=CLASSES)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    bounds = scipy.stats.ttest_1samp([0.5, 0.75], 0).confidence_interval(0.95)
    (row,) = table["rows"]
    score = row.pop("score")
    assert score == pytest.approx({"mean": 0.625, "low": bounds.low, "high": bounds.high})
    assert row == {
        "method": "full",
        "shots": 8,
        "labels_per_class": 8,
        "by_seed": {
            "0": {"score": 0.75, "examples": 56, "parameters": 1000, "learning_rate": None},
            "1": {"score": 0.5, "examples": 56, "parameters": 1000, "learning_rate": 2e-4},
        },
    }
    assert table["time"] == [
        {"method": "full", "shots": 8, "seconds": 11.5, "by_seed": {"0": 10.5, "1": 12.5}},
    ]
    assert table["classes"] == CLASSES


def test_one_seed_has_null_bounds() -> None:
    (row,) = json_table(grid({"full": {None: [0.5]}}), classes=CLASSES)["rows"]
    assert row["score"] == {"mean": 0.5, "low": None, "high": None}
    assert row["shots"] is None


@given(comparisons(), st.randoms(use_true_random=False))
def test_equal_comparisons_are_equal_but_for_their_time(cells: list[Result], order: random.Random) -> None:
    """Another order of cells and another clock: the same bytes without `time`."""
    again = [Result(**(c.to_dict() | {"seconds": 1 + order.random()})) for c in order.sample(cells, len(cells))]
    one, other = (json_table(Results(c), classes=CLASSES) for c in (cells, again))
    assert one.pop("time") != other.pop("time")
    assert json.dumps(one) == json.dumps(other)


@given(comparisons())
def test_every_cell_is_counted_once(cells: list[Result]) -> None:
    table = json_table(Results(cells), classes=CLASSES)
    assert sum(len(row["by_seed"]) for row in table["rows"]) == len(cells)
    lines = text_table(Results(cells), classes=CLASSES).splitlines()
    assert len({len(line) for line in lines if not line.startswith("±")}) == 1
    assert len([line for line in lines if not line.startswith("±")]) == 1 + len(table["rows"])
