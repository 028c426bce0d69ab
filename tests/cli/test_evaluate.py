"""`tl-jax evaluate`: what reaches the run, and how its metrics are printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tl_jax.cli.main import main


def test_what_was_given_reaches_the_run(behind: Any) -> None:
    assert main("evaluate runs/x".split()) == 0
    assert main("evaluate runs/x --data new.csv --split test --batch-size 8 --model moved".split()) == 0
    assert behind.opened == [("runs/x", None), ("runs/x", "moved")]
    assert behind.evaluated == [{}, {"data": "new.csv", "split": "test", "batch_size": 8}]


def test_formats(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("evaluate runs/x".split()) == 0
    assert capsys.readouterr() == ("accuracy  0.7500\n", "tl-jax: evaluating runs/x; loading JAX\nas it opens\n")
    assert main("evaluate runs/x --format json".split()) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.75}
