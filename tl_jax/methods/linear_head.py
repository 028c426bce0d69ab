"""Methods that solve a linear head to convergence on the frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from tl_jax.errors import InputError
from tl_jax.groups import Group
from tl_jax.methods.plan import HEAD, REST_FROZEN, LinearSolver, Plan, fill, head_index, under
from tl_jax.methods.spec import Spec
from tl_jax.model import Model, State, Variables
from tl_jax.rules import Rule, paths


@dataclass(frozen=True)
class Probe(Spec):
    """A linear head alone, solved to convergence on the frozen features (the linear probe of Alain & Bengio 2016).

    `C` is the inverse strength of the L2 penalty, as in scikit-learn's `LogisticRegression`; see `LinearSolver`. Raises
    `InputError` if the model's head is not one kernel and one bias.
    """

    C: float = 1.0
    name: ClassVar[str] = "probe"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strength(self, self.C)

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        variables = _with_linear_head(self, model, variables, key, inputs)
        rules = (Rule(under("head"), HEAD), REST_FROZEN)
        return Plan(model, variables, rules, self, LinearSolver(float(self.C)), stepped=False)


@dataclass(frozen=True)
class LpFt(Spec):
    """The linear probe first, then every parameter trains from there: LP-FT (Kumar et al. 2022, arXiv 2202.10054).

    From a head that is solved already, the first gradients do not bend the pre-trained features to fit a random head.
    The probe's own score is among those the best checkpoint is chosen from. `C` as in `probe`. Raises `InputError` if
    the model's head is not one kernel and one bias.
    """

    C: float = 1.0
    name: ClassVar[str] = "lp_ft"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strength(self, self.C)

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        variables = _with_linear_head(self, model, variables, key, inputs)
        return Plan(model, variables, (Rule(".*", Group("full")),), self, LinearSolver(float(self.C)))


def _check_strength(method: Spec, strength: float) -> None:
    if strength <= 0:
        raise InputError(f"{method.name}: C must be positive, not {strength}")


def _with_linear_head(
    method: Spec, model: Model, variables: Variables, key: jax.Array, inputs: State | None
) -> Variables:
    """The variables with first values for the head, which must be one kernel and one bias."""
    head_index(model)
    variables = fill(model, variables, key, inputs)
    leaves = sorted(paths(variables["params"].get("head", {})))
    if leaves != ["bias", "kernel"]:
        raise InputError(
            f"{method.name} solves a linear head, a kernel and a bias; this one has {', '.join(leaves) or 'none'}"
        )
    return variables
