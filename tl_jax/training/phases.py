"""Phases of training: which groups train in each, and the step it starts at. Most plans have one phase."""

from __future__ import annotations

from typing import Any

import jax

from tl_jax.groups import FROZEN
from tl_jax.trees import by_path


def phases(labels: Any) -> int:
    """How many phases a plan has: one, and one for each later thaw."""
    return 1 + max((group.thaw for group in by_path(labels).values() if group is not FROZEN), default=0)


def labels_in(labels: Any, phase: int) -> Any:
    """The labels during a phase: `FROZEN` for groups that thaw later."""
    return jax.tree.map(lambda g: FROZEN if g is FROZEN or g.thaw > phase else g, labels)


def starts(count: int, total: int, per_epoch: int) -> tuple[int, ...]:
    """The steps at which `count` phases start, of `total`: one an epoch as in ULMFiT (Howard & Ruder 2018).

    Where there are fewer epochs than phases, the phases are equally long; the last one takes what is left.
    """
    return tuple(min(phase * per_epoch, phase * total // count) for phase in range(count))


def phase_at(starts: tuple[int, ...], step: int) -> int:
    """The phase that makes step `step` (0 is the first)."""
    return max(phase for phase, start in enumerate(starts) if start <= step)
