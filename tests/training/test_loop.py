from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

from tl_jax.training.loop import Loop, Memory


def loop(scores: list[float], starts: tuple[int, ...], patience: int) -> Loop:
    """A loop that only evaluates: `scores`, one after the other."""
    following = iter(scores)
    nothing = SimpleNamespace(save_best=lambda *a: None, evaluated=lambda **a: None, message=lambda text: None)
    given: dict[str, Any] = {f.name: None for f in fields(Loop)}
    given |= {"checkpoints": nothing, "events": nothing, "monitor": "accuracy", "per_epoch": 10, "starts": starts}
    given |= {"validate": lambda state: {"accuracy": next(following), "loss": 1.0}, "result": lambda state: {}}
    return Loop(**{**given, "patience": patience})


@pytest.mark.parametrize(
    ("starts", "patience", "stops"),
    [((0,), 1, 20), ((0,), 2, 30), ((0, 10, 20), 1, 30), ((0, 10, 20), 2, 40), ((0, 15), 1, 20), ((0,), 0, None)],
)
def test_patience_counts_once_everything_has_thawed(starts: tuple[int, ...], patience: int, stops: int | None) -> None:
    """Else a bad epoch of the head alone would end the run before the layers ever train."""
    memory, scoring = Memory(), loop([0.5, 0.4, 0.4, 0.4, 0.4], starts, patience)
    for step in (10, 20, 30, 40, 50):
        scoring.evaluate(step, None, memory)
        assert memory.best_step == 10
        if memory.done:
            break
    assert (step if memory.done else None) == stops
