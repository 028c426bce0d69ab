from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tl_jax.training.defaults import epochs_between

COUNTS = st.integers(1, 100_000)


@given(COUNTS, COUNTS)
def test_an_evaluation_costs_no_more_than_the_steps_before_it(train: int, validation: int) -> None:
    """A step on an example is about three forward passes; and it is evaluated as often as that allows."""
    epochs = epochs_between(train, validation)
    assert validation <= 3 * train * epochs
    assert epochs == 1 or validation > 3 * train * (epochs - 1)
