"""Which parts of a model are in training mode in a step, from what trains: what is frozen computes as in evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tl_jax.hooks import within
from tl_jax.model import Model
from tl_jax.rules import paths


def mode(
    model: Model, trained: Collection[str], frozen: Collection[str], statistics: Mapping[str, Any]
) -> dict[str, Any]:
    """`train_from` and `evaluate` of `Model.apply` for these paths of leaves and this collection of statistics.

    Stages train from the first that reads a trainable leaf on. Above it, a stage with statistics but no trainable leaf
    is in evaluation mode. In somebody's own network, one stage of scope "", that holds for each norm: it trains with
    its parameters, or where it has none with those of the module around it.
    """
    first = min(model.first_use(path) for path in trained)
    homes = {model.stages[model.depth(path)].home for path in trained}
    still = [s.name for s in model.stages if s.home in statistics and s.home not in homes]
    if "" in homes:
        others = {stage.home for stage in model.stages if stage.home}
        own = {name: tree for name, tree in statistics.items() if name not in others}
        norms = dict.fromkeys(path.rpartition("/")[0] for path in paths({"params": own}))
        inner = [path.split("/", 2)[2] if path.startswith("adapters/") else path for path in trained]
        still += [norm for norm in norms if not _any(inner, _with_parameters(norm, [*inner, *frozen]))]
    return {"train_from": model.stages[first].name, "evaluate": tuple(still)}


def _with_parameters(module: str, leaves: Collection[str]) -> str:
    """The module itself, or the first around it that has a parameter."""
    while module and not _any(leaves, module):
        module = module.rpartition("/")[0]
    return module


def _any(leaves: Collection[str], scope: str) -> bool:
    return any(within(leaf, scope) for leaf in leaves)
