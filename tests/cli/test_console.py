"""What is printed: tables and metrics."""

from __future__ import annotations

from tl_jax.cli.console import scores, table


def test_table_aligns_words_left_and_numbers_right() -> None:
    assert table([("accuracy", 0.5), ("n", 1200)]) == "accuracy  0.5000\nn           1200"


def test_no_rows() -> None:
    assert table([]) == ""


def test_scores() -> None:
    metrics = {
        "accuracy": 0.75,
        "n": 4,
        "by_class": {"no": {"f1": 0.5, "support": 1}, "yes": {"f1": 0.8, "support": 3}},
        "confusion": [[1, 0], [1, 2]],
    }
    assert scores(metrics).splitlines() == [
        "accuracy  0.7500",
        "n              4",
        "",
        "by_class  f1      support",
        "no        0.5000        1",
        "yes       0.8000        3",
    ]
