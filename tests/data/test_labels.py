from __future__ import annotations

import numpy as np
import pytest

from tl_jax.data import Dataset, class_names, class_numbers, label_texts
from tl_jax.errors import InputError


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", " a ", "B", "a"], ("B", "a", "b")),
        ([10, 9, -1, 9], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["10", "9", "1"], ("1", "9", "10")),
        ([True, False, True], ("false", "true")),
        ([1.0, 0.0, 2.0], ("0", "1", "2")),
    ],
)
def test_names_are_sorted_integers_by_value(values, names):
    dataset = Dataset({"label": values})
    assert class_names(label_texts(dataset, "label")) == names


def test_numbers_are_places_in_the_names():
    labels = ["b", "a", "b"]
    numbers = class_numbers(labels, class_names(labels))
    assert numbers.dtype == np.int32 and numbers.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "line 9: the label .*is empty"),
        ("  ", "line 9: the label .*is empty"),
        (None, "line 9: the label .*is missing"),
        (float("nan"), "line 9: the label .*is missing"),
        (2.5, "line 9: the label .*is 2.5; a class is"),
        (["a"], "line 9: the label .*a class is"),
    ],
)
def test_labels_that_are_none_say_where(value, message):
    dataset = Dataset({"label": ["a", value]}, source="x.csv", lines=[2, 9])
    with pytest.raises(InputError, match=message):
        label_texts(dataset, "label")


def test_one_class_only_is_named():
    with pytest.raises(InputError, match=r"x\.csv: all 3 labels are 'spam'; a classifier needs at least two"):
        class_names(["spam"] * 3, "x.csv")
    with pytest.raises(InputError, match=r"x\.csv: there are no labels"):
        class_names([], "x.csv")


def test_labels_that_training_never_saw_are_listed_with_counts():
    message = r"x\.csv has labels that training never saw: 'Refund' \(2\), 'x' \(1\); is 'refund' meant.*: refund, card"
    with pytest.raises(InputError, match=message):
        class_numbers(["Refund", "card", "x", "Refund"], ("refund", "card"), "x.csv")
