"""Many devices: a mesh by its text, where each array lies on it by rules over paths, and what a step does about it.

One file, one idea: `axes` reads `data=4,fsdp=2` and says what fits, without jax; `shardings` has the rules and follows
them from a parameter to all that belongs to it; `placement` puts arrays where they lie and keeps them there in a step.

The names below are imported on first use, so that a mesh can be refused before jax is loaded.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AXES": "axes",
    "Axes": "axes",
    "read": "axes",
    "fitting": "axes",
    "DEFAULT": "shardings",
    "specs": "shardings",
    "ANYWHERE": "placement",
    "Placement": "placement",
    "place": "placement",
    "place_again": "placement",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
