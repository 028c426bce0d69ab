"""tl_jax: transfer learning in JAX. Any pre-trained checkpoint, your own labelled data, and the result back out.

Names are imported at first use, so `import tl_jax` is instant and loads neither jax nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = ("analysis", "data", "methods", "metrics", "models", "parallel", "pretrained", "rules", "tasks", "training")
_HOMES = {
    "Comparison": "tl_jax.analysis.comparison",
    "Diverged": "tl_jax.training.loop",
    "Experiment": "tl_jax.experiment",
    "FROZEN": "tl_jax.groups",
    "Group": "tl_jax.groups",
    "InputError": "tl_jax.errors",
    "Interrupted": "tl_jax.training.loop",
    "Model": "tl_jax.model",
    "Rule": "tl_jax.rules",
    "Run": "tl_jax.run",
    "Stage": "tl_jax.stage",
    "combine": "tl_jax.training.partition",
    "compare": "tl_jax.analysis.comparison",
    "explain": "tl_jax.rules",
    "finetune": "tl_jax.finetuning",
    "inspect": "tl_jax.inspection",
    "load": "tl_jax.loading",
    "match": "tl_jax.rules",
    "merge": "tl_jax.methods",
    "open_run": "tl_jax.run",
    "optimizer": "tl_jax.training.optimizer",
    "partition": "tl_jax.training.partition",
    "save": "tl_jax.pretrained",
    "train_step": "tl_jax.training.step",
    "verify": "tl_jax.verification.checking",
}
__all__ = [
    "__version__",
    "Comparison",
    "Diverged",
    "Experiment",
    "FROZEN",
    "Group",
    "InputError",
    "Interrupted",
    "Model",
    "Rule",
    "Run",
    "Stage",
    "combine",
    "compare",
    "explain",
    "finetune",
    "inspect",
    "load",
    "match",
    "merge",
    "open_run",
    "optimizer",
    "partition",
    "save",
    "train_step",
    "verify",
    "analysis",
    "data",
    "methods",
    "metrics",
    "models",
    "parallel",
    "pretrained",
    "rules",
    "tasks",
    "training",
]

if TYPE_CHECKING:
    from tl_jax import analysis, data, methods, metrics, models, parallel, pretrained, rules, tasks, training
    from tl_jax.analysis.comparison import Comparison, compare
    from tl_jax.errors import InputError
    from tl_jax.experiment import Experiment
    from tl_jax.finetuning import finetune
    from tl_jax.groups import FROZEN, Group
    from tl_jax.inspection import inspect
    from tl_jax.loading import load
    from tl_jax.methods import merge
    from tl_jax.model import Model
    from tl_jax.pretrained import save
    from tl_jax.rules import Rule, explain, match
    from tl_jax.run import Run, open_run
    from tl_jax.stage import Stage
    from tl_jax.training.loop import Diverged, Interrupted
    from tl_jax.training.optimizer import optimizer
    from tl_jax.training.partition import combine, partition
    from tl_jax.training.step import train_step
    from tl_jax.verification.checking import verify


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"tl_jax.{name}")
    else:
        raise AttributeError(f"module 'tl_jax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
