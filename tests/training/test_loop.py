from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tl_jax.training.loop import Loop, Memory


def loop(scores: list[float], starts: tuple[int, ...], patience: int) -> Loop:
    """A loop that only evaluates: `scores`, one after the other."""
    following = iter(scores)
    nothing = SimpleNamespace(save_best=lambda *a: None, evaluated=lambda **a: None, message=lambda text: None)
    given: dict[str, Any] = {f.name: None for f in fields(Loop)}
    given |= {"checkpoints": nothing, "events": nothing, "monitor": "accuracy", "per_epoch": 10, "starts": starts}
    given |= {"validate": lambda i, state: {"accuracy": next(following), "loss": 1.0}, "result": lambda state: {}}
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


def test_of_equal_scores_the_later_is_kept_and_patience_sees_no_progress() -> None:
    memory, scoring = Memory(), loop([0.5, 0.5, 0.4, 0.5, 0.6], (0,), patience=4)
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 40), (50, 50)):
        scoring.evaluate(step, None, memory)
        assert memory.best_step == best and not memory.done
    scoring = loop([0.5, 0.5, 0.5], (0,), patience=2)
    memory = Memory()
    for step in (10, 20, 30):
        scoring.evaluate(step, None, memory)
    assert memory.done and memory.best_step == 30


def test_it_evaluates_every_so_many_epochs_and_at_the_end() -> None:
    fine = {"loss_sum": 1.0, "weight": 1.0, "finite": True, "grad_norm": 1.0}
    batch = {"tokens": np.zeros((2, 4)), "mask": np.ones((2, 4))}
    told: list[int] = []
    silent = SimpleNamespace(
        compiling=lambda *a: None, step=lambda **a: None, evaluated=lambda *, step, **a: told.append(step)
    )
    running = replace(
        loop([0.5] * 4, (0,), patience=0),
        step=lambda phase: lambda state, batch, hyper: (SimpleNamespace(step=state.step + 1), fine),
        batch=lambda i: (batch, batch),
        rate=lambda i: 0.1,
        hyper=lambda rate: {"learning_rate": np.float32(rate)},
        total=25,
        per_epoch=5,
        validate_every=2,
        checkpoints=SimpleNamespace(save=lambda *a: None, save_best=lambda *a: None, steps=list),
        snapshot=lambda state: {},
        events=silent,
        stop_asked=lambda: False,
    )
    running.run(SimpleNamespace(step=0), Memory())
    assert told == [10, 20, 25]
