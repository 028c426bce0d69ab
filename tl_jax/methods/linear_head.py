"""Methods that solve a linear head to convergence on the frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from tl_jax.errors import InputError
from tl_jax.groups import Group
from tl_jax.methods.plan import HEAD, REST_FROZEN, LinearSolver, Plan, fill, head_index, under
from tl_jax.methods.spec import Spec
from tl_jax.model import Model
from tl_jax.rules import Rule, paths
from tl_jax.stage import State, Variables

AUTO = "auto"


@dataclass(frozen=True)
class Probe(Spec):
    """A linear head alone, solved to convergence on the frozen features (the linear probe of Alain & Bengio 2016).

    `C` is the inverse strength of the L2 penalty, as in scikit-learn's `LogisticRegression`; see `LinearSolver`, also
    for `standardize`. `at` names the stage from which on the chain is left out: `at=layers_4` pools what `layers_3`
    writes. `at=auto` has cut and strength chosen by cross-validation within the training examples, on standardised
    features. Raises `InputError` if the model's head is not one kernel and one bias, and for a stage at which it cannot
    be cut.
    """

    C: float = 1.0
    at: str | None = None
    standardize: bool | None = None
    name: ClassVar[str] = "probe"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strength(self, self.C)

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        variables = _with_linear_head(self, model, variables, key, inputs)
        if self.at == AUTO:
            cuts(model)
        elif self.at is not None:
            model, variables = _truncated(model, variables, self.at)
        rules = (Rule(under("head"), HEAD), REST_FROZEN)
        return Plan(model, variables, rules, self, LinearSolver(float(self.C), bool(self.standardize)), stepped=False)


def cuts(model: Model) -> tuple[str, ...]:
    """Where a probe can cut the chain: before each stage between the first and the one that pools, and before that."""
    pooled = next((i for i, stage in enumerate(model.stages) if "pooled" in stage.writes), 0)
    reads = set(model.stages[pooled].reads)
    found = tuple(model.names[i] for i in range(1, pooled + 1) if reads & set(model.stages[i - 1].writes))
    if not found:
        raise InputError("this model is not a chain of layers with a pooling behind: there is nothing to cut")
    return found


def _truncated(model: Model, variables: Variables, at: str) -> tuple[Model, dict[str, Any]]:
    """The chain without the stages from `at` up to the one that pools, and the variables without theirs."""
    model.index(at)
    if at not in (there := cuts(model)):
        raise InputError(f"probe: the chain cannot be cut at {at}; it can at {', '.join(there)}, or auto")
    pooled = next(i for i, stage in enumerate(model.stages) if "pooled" in stage.writes)
    shorter = model.attach(*model.stages[pooled:], at=at)
    homes = {stage.home for stage in shorter.stages}
    kept = {
        collection: {home: leaves for home, leaves in tree.items() if home in homes}
        for collection, tree in variables.items()
    }
    return shorter, kept


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
    if model.by_token:
        raise InputError(
            f"{method.name} solves a classifier's head, which a language model has none of: full, last_layers and lora "
            "train it by steps"
        )
    head_index(model)
    variables = fill(model, variables, key, inputs)
    leaves = sorted(paths(variables["params"].get("head", {})))
    if leaves != ["bias", "kernel"]:
        raise InputError(
            f"{method.name} solves a linear head, a kernel and a bias; this one has {', '.join(leaves) or 'none'}"
        )
    return variables
