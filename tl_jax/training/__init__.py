"""Training: split the tree, differentiate the trainable part, step.

One file, one idea: `partition` cuts a tree into trainable and frozen, `optimizer` is one optax transformation over the
trainable groups, `state` what a step maps to its successor, `step` the step itself, `averaging` the moving average of
what trains, `phases` which groups train when, `schedules` the learning rate on the host, `convex` the linear head
solved to convergence, `store` where a fit keeps its best, `flops` what a function costs.

The names below are imported on first use. `partition`, `optimizer` and `flops` are modules here and functions inside
them: a package does not export a callable under the name of one of its files.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "combine": "partition",
    "OptimizerSpec": "optimizer",
    "decay_labels": "optimizer",
    "schedule": "schedules",
    "State": "state",
    "create": "state",
    "variables": "state",
    "train_step": "step",
    "eval_step": "step",
    "compiled_train_step": "step",
    "compiled_eval_step": "step",
    "logistic_regression": "convex",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
