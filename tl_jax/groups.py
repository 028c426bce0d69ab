"""What a trainable rule gives a parameter: its group; what a frozen one gives: `FROZEN`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Group:
    """Parameters that train alike.

    `lr` and `decay` multiply the run's learning rate and weight decay. `thaw` is the phase of training from which it
    trains; before that it is frozen.
    """

    name: str
    lr: float = 1.0
    decay: float = 1.0
    thaw: int = 0


class _Frozen:
    """The type of `FROZEN`, the one label that is not a group."""

    def __repr__(self) -> str:
        return "FROZEN"

    def __reduce__(self) -> str:  # copies and pickles stay the same object, so `is FROZEN` holds
        return "FROZEN"


FROZEN: Final = _Frozen()
Label = Group | _Frozen
