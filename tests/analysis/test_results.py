from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.cells import CLASSES, cell, comparisons
from tl_jax.analysis.results import Result, Results, is_scratch
from tl_jax.errors import InputError


@pytest.mark.parametrize("result", [cell(), cell("probe", None, 3, 1.0, learning_rate=2e-4), cell(score=0)])
def test_a_result_survives_json(result: Result) -> None:
    assert Result.from_dict(json.loads(json.dumps(result.to_dict())), "cell.json") == result


def test_a_rate_need_not_be_given() -> None:
    value = cell().to_dict()
    del value["learning_rate"]
    assert Result.from_dict(value, "cell.json").learning_rate is None


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("method", "", "a method's name"),
        ("method", 3, "a method's name"),
        ("shots", 0, "a whole number above 0, or null"),
        ("shots", True, "a whole number above 0, or null"),
        ("shots", 8.0, "a whole number above 0, or null"),
        ("seed", -1, "a whole number"),
        ("seed", None, "a whole number"),
        ("score", 1.01, "a number from 0 to 1"),
        ("score", -0.1, "a number from 0 to 1"),
        ("score", float("nan"), "a number from 0 to 1"),
        ("score", "0.5", "a number from 0 to 1"),
        ("examples", 0, "a whole number above 0"),
        ("seconds", float("inf"), "a number of seconds"),
        ("parameters", 1.5, "a whole number"),
        ("learning_rate", "fast", "a number, or null"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file(field: str, value: object, what: str) -> None:
    with pytest.raises(InputError) as e:
        Result.from_dict(cell().to_dict() | {field: value}, "cells/a.json")
    assert str(e.value) == f"cells/a.json: {field} must be {what}, not {value!r}"


def test_unknown_and_missing_fields_name_the_file() -> None:
    with pytest.raises(InputError, match=r"cells/a.json: a result has no field 'scores'; did you mean 'score'"):
        Result.from_dict(cell().to_dict() | {"scores": 1}, "cells/a.json")
    value = cell().to_dict()
    del value["score"], value["seed"]
    with pytest.raises(InputError, match=r"cells/a.json: seed, score missing"):
        Result.from_dict(value, "cells/a.json")
    with pytest.raises(InputError, match=r"cells/a.json does not hold a result"):
        Result.from_dict([], "cells/a.json")


def test_methods_and_sizes_are_ordered() -> None:
    results = Results([cell("scratch", None), cell("probe", 16), cell("full", 128), cell("scratch", 8)])
    assert results.methods == ("full", "probe", "scratch")
    assert results.sizes == (8, 16, 128, None)
    assert results.transfers == ("full", "probe")
    assert results.scratch == "scratch"
    assert Results([cell("scratch"), cell("ssf")]).methods == ("ssf", "scratch")  # last, whatever the alphabet says


def test_the_order_asked_for_is_kept() -> None:
    cells = [cell(method) for method in ("full", "lora", "probe", "scratch")]
    assert Results(cells, ("scratch", "probe", "bitfit")).methods == ("scratch", "probe", "full", "lora")


def test_scores_are_by_seed() -> None:
    results = Results([cell(seed=2, score=0.2), cell(seed=0, score=0.1), cell("scratch", seed=1)])
    assert list(results.scores("full", 8).items()) == [(0, 0.1), (2, 0.2)]
    assert results.scores("full", None) == {}
    assert [c.seed for c in results.of("full", 8)] == [0, 2]


def test_labels_a_class_are_means_over_seeds() -> None:
    # Seed 0 is counted once though two methods finished it.
    results = Results([cell(examples=70), cell("probe", examples=70), cell(seed=1, examples=56), cell("full", None)])
    assert results.labels(8, CLASSES) == 9
    assert results.labels(None, CLASSES) == 36
    assert results.examples(8) == 63


def test_nothing_finished_and_a_cell_twice() -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        Results([])
    with pytest.raises(InputError, match="full on 8 shots with seed 0 has two results"):
        Results([cell(), cell(score=0.7)])
    with pytest.raises(InputError, match="full on all labels with seed 0 has two results"):
        Results([cell(shots=None), cell(shots=None)])


@given(comparisons(), st.randoms(use_true_random=False))
def test_the_order_of_cells_does_not_matter(cells: list[Result], order: random.Random) -> None:
    shuffled = order.sample(cells, len(cells))
    assert Results(shuffled) == Results(cells)
    assert sorted(Results(cells).cells, key=str) == sorted(cells, key=str)


def test_scratch_has_parameters_too() -> None:
    assert is_scratch("scratch:init=normal")
    assert not is_scratch("scratched")
