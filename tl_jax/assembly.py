"""The model with the task's head, as the method wants it: what fine-tuning and opening a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN
from tl_jax.methods import Method, Plan, parse
from tl_jax.model import Model
from tl_jax.rules import map_paths, paths

_COMPUTE = {"float32": None, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True, eq=False)
class Assembly:
    """A plan, the task it is for, and the paths a run must store: all that its source does not hold unchanged."""

    plan: Plan
    task: Any
    model: Model  # the plan's, computing in the run's precision
    stored: frozenset[str]
    dtype: Any = None  # what it computes in, where that is not the parameters' own

    @classmethod
    def of(cls, plan: Plan, task: Any, *, precision: str, loaded: Mapping[str, Any] | None) -> Assembly:
        """`loaded` are the variables as the source has them; None: they cannot be read again, so all are stored."""
        known = paths(loaded or {})
        labels = paths(plan.labels)
        stored = frozenset(
            path
            for path in paths(plan.variables)
            if path not in known or labels.get(path) is not FROZEN  # statistics have no label, and may change
        )
        dtype = _COMPUTE[precision]
        return cls(plan, task, plan.model if dtype is None else plan.model.cast(dtype), stored, dtype)

    def again(self, plan: Plan) -> Assembly:
        """The same with another plan over some of its leaves, the same of which train."""
        stored = self.stored & frozenset(paths(plan.variables))
        model = plan.model if self.dtype is None else plan.model.cast(self.dtype)
        return Assembly(plan, self.task, model, stored, self.dtype)


def make_plan(model: Model, variables: Mapping[str, Any], task: Any, method: str | Method, *, seed: int) -> Plan:
    """Attach the task's head and apply the method; new leaves are drawn from `seed`."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return parse(method)(task.attach(model), task.without_old_head(model, variables), key)


def stored_leaves(assembly: Assembly, variables: Mapping[str, Any]) -> dict[str, Any]:
    """`{path: array}` of what a run stores of its result."""
    return {path: leaf for path, leaf in paths(variables).items() if path in assembly.stored}


def with_stored(assembly: Assembly, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's variables with a run's stored leaves put in; raises `InputError` if they are not this plan's."""
    expected = {path: leaf.shape for path, leaf in paths(assembly.plan.variables).items() if path in assembly.stored}
    found = {path: leaf.shape for path, leaf in leaves.items()}
    if expected != found:
        wrong = sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path))
        raise InputError(f"the checkpoint does not fit the plan of this run: {', '.join(wrong[:5])}")
    result: dict[str, Any] = map_paths(lambda path, leaf: leaves.get(path, leaf), assembly.plan.variables)
    return result
