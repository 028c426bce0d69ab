"""How to transfer: each method makes a model and its variables into a `Plan`, which is data only.

    plan = tl.methods.lora(rank=8)(model, variables, key)
    plan = tl.methods.parse("lora:rank=8,targets=query|value")(model, variables, key)

A new method is one file and one line in `METHODS`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tl_jax.methods.freezing import BitFit as bitfit
    from tl_jax.methods.freezing import Discriminative as discriminative
    from tl_jax.methods.freezing import Full as full
    from tl_jax.methods.freezing import LastLayers as last_layers
    from tl_jax.methods.linear_head import LpFt as lp_ft
    from tl_jax.methods.linear_head import Probe as probe
    from tl_jax.methods.low_rank import Lora as lora
    from tl_jax.methods.merging import NotMergeable, merge
    from tl_jax.methods.parsing import parse
    from tl_jax.methods.plan import LinearSolver, Method, Plan
    from tl_jax.methods.thawing import GradualUnfreezing as gradual_unfreezing
    from tl_jax.methods.yardstick import Scratch as scratch


class Entry(NamedTuple):
    """Where a method lives and what it does, in one line."""

    module: str
    cls: str
    about: str


METHODS: dict[str, Entry] = {
    "probe": Entry("linear_head", "Probe", "a linear head alone, solved to convergence on frozen features"),
    "full": Entry("freezing", "Full", "every parameter trains"),
    "last_layers": Entry("freezing", "LastLayers", "the last k layers and all above them train"),
    "discriminative": Entry("freezing", "Discriminative", "everything trains, lower layers at lower learning rates"),
    "gradual_unfreezing": Entry(
        "thawing", "GradualUnfreezing", "the head trains first, then one more group each phase"
    ),
    "lp_ft": Entry("linear_head", "LpFt", "the probe first, then every parameter trains from there"),
    "bitfit": Entry("freezing", "BitFit", "biases alone, and the head"),
    "lora": Entry("low_rank", "Lora", "low-rank updates beside the frozen dense kernels, and the head"),
    "scratch": Entry(
        "yardstick", "Scratch", "every parameter trains from random values: what transfer is compared with"
    ),
}
_OTHERS = {
    "LinearSolver": "plan",
    "Method": "plan",
    "NotMergeable": "merging",
    "Plan": "plan",
    "merge": "merging",
    "parse": "parsing",
}
__all__ = [
    "METHODS",
    "LinearSolver",
    "Method",
    "NotMergeable",
    "Plan",
    "available",
    "bitfit",
    "discriminative",
    "full",
    "gradual_unfreezing",
    "last_layers",
    "lora",
    "lp_ft",
    "merge",
    "parse",
    "probe",
    "scratch",
]


def available() -> dict[str, str]:
    """The methods' names and what each does, in one line. Imports nothing."""
    return {name: entry.about for name, entry in METHODS.items()}


def __getattr__(name: str) -> Any:
    if name in METHODS:
        module, attribute = METHODS[name].module, METHODS[name].cls
    elif name in _OTHERS:
        module, attribute = _OTHERS[name], name
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
