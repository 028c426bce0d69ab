"""Law 4: after a real fine-tune of every method, what is frozen has the bits it was loaded with, and all else moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tl_jax as tl
from tests.tiny import METHODS, Tiny, digests
from tl_jax.groups import FROZEN
from tl_jax.rules import paths

EVERYTHING = ("full", "discriminative", "gradual_unfreezing", "lp_ft", "scratch")  # methods that freeze nothing


@pytest.mark.parametrize("method", METHODS)
def test_frozen_leaves_keep_their_bits(method: str, tiny: Tiny, tuned: Callable[[str], Any]) -> None:
    run = tuned(method)
    _, loaded = tl.load(tiny.mean)
    before, after = digests(loaded), digests(run.variables)
    began = digests(run.plan.variables)  # with what the method and the task added
    labels = paths(run.plan.labels)
    frozen = {path for path, label in labels.items() if label is FROZEN}
    assert frozen == set(after) - {path for path, label in labels.items() if label is not FROZEN}
    assert bool(frozen) == (method not in EVERYTHING)
    for path in after:
        if path in frozen:
            assert after[path] == before[path], path
        elif not path.endswith("attention/key/bias"):  # softmax does not see it: its gradient is rounding
            assert after[path] != began[path], path
    assert "batch_stats" not in run.variables  # BERT has none; those of other nets are tested where steps are
