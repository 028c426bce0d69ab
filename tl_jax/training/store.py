"""Where a fit keeps its best leaves and what it could go on from: a run's checkpoints on disk, or memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tl_jax.training.snapshot import Restored

Arrays = Mapping[str, Any]


class Store(Protocol):
    """What the loop asks of a store; `tl_jax.training.checkpoint.Checkpoints` is one that survives the process."""

    def steps(self) -> list[int]:
        """The steps there is a checkpoint of, ascending."""

    def save(self, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> object:
        """Keep what training could go on from."""

    def save_best(self, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> object:
        """Keep the best result so far."""

    def restore(self) -> Restored | None:
        """What training goes on from; None at the beginning."""

    def restore_best(self) -> Restored | None:
        """The best result."""

    def clear(self) -> None:
        """Forget everything."""


class InMemory:
    """A store for a fit that is over quickly and begins anew if it is stopped: it keeps the best result only."""

    def __init__(self) -> None:
        self._best: Restored | None = None

    def steps(self) -> list[int]:
        return []

    def save(self, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        """Keeps nothing: there is no process that could go on from it."""

    def save_best(self, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        # Copies: the next step reuses the memory of the state these arrays belong to.
        self._best = Restored({name: np.array(array) for name, array in arrays.items()}, dict(meta), step)

    def restore(self) -> None:
        return None

    def restore_best(self) -> Restored | None:
        return self._best

    def clear(self) -> None:
        self._best = None
