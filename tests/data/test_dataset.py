from __future__ import annotations

import numpy as np
import pytest

from tl_jax.data import Dataset
from tl_jax.errors import InputError

COLUMNS = {"text": ["a", "b", "c"], "label": [0, 1, 0]}


def test_random_access():
    dataset = Dataset(COLUMNS)
    assert len(dataset) == 3
    assert dataset[1] == {"text": "b", "label": 1}
    assert dataset[-1] == {"text": "c", "label": 0}
    assert [row["label"] for row in dataset] == [0, 1, 0]
    assert dataset.columns == ("text", "label")
    with pytest.raises(IndexError):
        dataset[3]


def test_changing_what_came_out_or_went_in_changes_nothing():
    source = {"text": ["a", "b"]}
    dataset = Dataset(source)
    source["text"][0] = "x"
    dataset.column("text")[1] = "y"
    assert dataset.column("text") == ["a", "b"]


def test_numpy_becomes_plain_python():
    dataset = Dataset({"label": np.array([1, 2]), "score": [np.float32(0.5), np.float64(1)]})
    assert [type(v) for v in dataset.column("label") + dataset.column("score")] == [int, int, float, float]


def test_columns_of_unequal_length_are_named():
    with pytest.raises(InputError, match="'text' has 2, 'label' has 1"):
        Dataset({"text": ["a", "b"], "label": [1]})


def test_a_missing_column_names_the_nearest():
    with pytest.raises(InputError, match="no column 'lable'; did you mean 'label'"):
        Dataset(COLUMNS).column("lable")


def test_select_keeps_the_order_asked_for_and_the_place_of_origin():
    dataset = Dataset(COLUMNS, source="x.csv", lines=[2, 5, 6])
    part = dataset.select([2, 0]).select(np.array([0]))
    assert [*part] == [{"text": "c", "label": 0}]
    assert part.where(0) == "x.csv, line 6"
    assert Dataset(COLUMNS).select([2, 1]).where(1) == "in memory, example 1"
    assert len(dataset.select([])) == 0


def test_fingerprint_is_of_the_content_alone():
    fingerprint = Dataset(COLUMNS).fingerprint
    assert len(fingerprint) == 64
    as_in_a_csv = {"label": ["0", "1", "0"], "text": ["a", "b", "c"]}
    assert Dataset(as_in_a_csv, source="x.csv", lines=[2, 3, 4], name="x").fingerprint == fingerprint
    assert Dataset({"text": ["a", None]}).fingerprint == Dataset({"text": ["a", ""]}).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"text": ["a", "c", "b"], "label": [0, 1, 0]},
        {"text": ["a", "b", "d"], "label": [0, 1, 0]},
        {"text": ["ab", "", "c"], "label": [0, 1, 0]},
        {"texts": ["a", "b", "c"], "label": [0, 1, 0]},
        {"text": ["a", "b", "c"]},
        {"text": ["a", "b"], "label": [0, 1]},
    ],
)
def test_fingerprint_tells_different_content_apart(other):
    assert Dataset(other).fingerprint != Dataset(COLUMNS).fingerprint
