from __future__ import annotations

import pytest

from tl_jax.data.records import columns_of
from tl_jax.errors import InputError


def test_columns_follow_the_first_record():
    assert columns_of([{"a": 1, "b": 2}, {"b": 4, "a": 3}], str) == {"a": [1, 3], "b": [2, 4]}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"text": "b"}, "^row 2: the key 'label' is missing"),
        ({"text": "b", "labels": 1}, "^row 2: the key 'label' is missing; is 'labels' meant"),
        ({"text": "b", "label": 1, "more": 1}, "^row 2: the key 'more' is not in row 0"),
    ],
)
def test_the_first_record_that_differs_is_named(last, message):
    first = {"text": "a", "label": 0}
    with pytest.raises(InputError, match=message):
        columns_of([first, first, last, {}], lambda i: f"row {i}")
