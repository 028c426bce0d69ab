"""Folding adapters into the base by plain algebra, where a method can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.stage import Variables


class NotMergeable(InputError):
    """The adapters cannot be folded into the base without changing what the model computes. The message says why."""


def merge(model: Model, variables: Variables) -> tuple[Model, dict[str, Any]]:
    """The model without hooks and its variables without their leaves, computing the same to float32 rounding.

    Raises `NotMergeable` for a hook that has no `merge`, and where the parameters it would change are borrowed by
    another stage (tied), which would then change too.
    """
    params, adapters = variables["params"], dict(variables.get("adapters") or {})
    for hook in model.hooks:
        leaves = adapters.pop(hook.name, {})
        if not hasattr(hook, "merge"):
            raise NotMergeable(f"{hook.name} is not linear in the weights: its leaves cannot be merged into them")
        sites = {path.rpartition("/")[0] for path in paths(leaves)}
        for stage in model.stages:
            for _, owner in stage.borrows:
                if owner.rpartition("/")[0] in sites:
                    raise NotMergeable(f"{owner} is tied: merging {hook.name} into it would change {stage.name} too")
        params = hook.merge(params, leaves)
    rest = {collection: tree for collection, tree in variables.items() if collection != "adapters"}
    rest["params"] = params
    return replace(model, hooks=()), {**rest, "adapters": adapters} if adapters else rest
