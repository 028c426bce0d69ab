from __future__ import annotations

import threading

import pytest

from tl_jax.training.ahead import Ahead


def test_batches_come_in_order_each_made_once_and_not_past_the_stop() -> None:
    made: list[int] = []

    def make(i: int) -> int:
        made.append(i)
        return 10 * i

    with Ahead(make, lambda i: 4 if i < 4 else 9) as ahead:
        assert [ahead(i) for i in range(4)] == [0, 10, 20, 30]
    assert made == [0, 1, 2, 3]  # 4 belongs to another phase, which may need something first
    with Ahead(make, lambda i: 9) as ahead:
        assert [ahead(i) for i in range(4, 9)] == [40, 50, 60, 70, 80]
    assert sorted(made) == list(range(9))


def test_the_next_is_made_while_this_one_is_used() -> None:
    ready = threading.Event()

    def make(i: int) -> str:
        if i == 1:
            ready.set()
        return threading.current_thread().name

    with Ahead(make, lambda i: 5) as ahead:
        assert ahead(0) == threading.current_thread().name
        assert ready.wait(10)
        assert ahead(1).startswith("tl_jax batches")


def test_after_a_jump_it_starts_anew() -> None:
    with Ahead(lambda i: i, lambda i: 100) as ahead:
        assert [ahead(i) for i in (0, 1, 7, 8, 2)] == [0, 1, 7, 8, 2]


def test_what_a_batch_raises_is_raised_where_it_is_asked_for() -> None:
    def make(i: int) -> int:
        if i == 2:
            raise ValueError("batch 2")
        return i

    with Ahead(make, lambda i: 5) as ahead:
        assert (ahead(0), ahead(1)) == (0, 1)
        with pytest.raises(ValueError, match="batch 2"):
            ahead(2)
