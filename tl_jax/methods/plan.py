"""What a method makes of a model, as data: a `Plan`. Training reads it; nothing here computes a gradient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import jax

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.model import Model
from tl_jax.rules import Rule, explain, match, paths
from tl_jax.stage import State, Variables, check_variables


class Method(Protocol):
    """A way to transfer: a frozen dataclass, compared by value, that makes a plan of a model.

    It initialises stages that have no variables yet, and adds leaves of its own under `adapters/<name>`. `inputs`
    (shapes and dtypes only) is needed where the model does not start from tokens.
    """

    name: ClassVar[str]

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan: ...


HEAD = Group("head")
REST_FROZEN = Rule(".*", FROZEN, optional=True)


@dataclass(frozen=True)
class LinearSolver:
    """The head is solved to convergence on the frozen features, not stepped: regularised logistic regression.

    It minimises `½‖W‖² + C Σ loss`, the bias free, as scikit-learn's `LogisticRegression(C)` does: the softmax loss
    over three classes or more, the logistic loss with one weight vector over two. With `standardize` it does so on
    features of mean 0 and deviation 1, and the solution is put in terms of the features as they are.
    """

    C: float = 1.0
    standardize: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """A model, its variables with the leaves that a method added, and the rules that say which of them train.

    With a `solver` the head is solved on the frozen features first; `stepped` says whether steps train it all. Raises
    `InputError` if a rule decides nothing or gives something other than a `Group` or `FROZEN`, if a leaf is not
    decided, and if nothing trains.
    """

    model: Model
    variables: Variables = field(repr=False)
    rules: tuple[Rule | tuple[str, Any], ...]
    method: Method
    solver: LinearSolver | None = None
    stepped: bool = True

    def __post_init__(self) -> None:
        _ = self.cut  # a plan that cannot be carried out is not made

    @cached_property
    def labels(self) -> dict[str, Any]:
        """`{"params": …, "adapters": …}` (the latter where there are any) holding each leaf's `Group` or `FROZEN`."""
        labels: dict[str, Any] = match(self.rules, _decided(self.variables), aliases=self.model.info.alias)
        for path, label in paths(labels).items():
            if not isinstance(label, Group) and label is not FROZEN:
                raise InputError(f"the rules give {path} {label!r}; it must be a Group or FROZEN")
        _check_phases(labels, solves=self.solver is not None and self.stepped)
        return labels

    @cached_property
    def cut(self) -> str:
        """The lowest stage that has, shares or borrows a trainable leaf: below it nothing needs a gradient."""
        return cut_of(self.model, self.labels)

    def __str__(self) -> str:
        leaves, labels = paths(_decided(self.variables)), paths(self.labels)
        total = sum(leaf.size for leaf in leaves.values())
        trained = sum(leaf.size for path, leaf in leaves.items() if labels[path] is not FROZEN)
        table = explain(self.rules, _decided(self.variables), aliases=self.model.info.alias)
        return f"{self.method}: {trained:,} of {total:,} parameters train, from {self.cut} up\n{table}"


def _check_phases(labels: Mapping[str, Any], *, solves: bool) -> None:
    groups = {path: label for path, label in paths(labels).items() if label is not FROZEN}
    for path, group in groups.items():
        if not isinstance(group.thaw, int) or group.thaw < 0:
            raise InputError(f"{path} thaws in phase {group.thaw!r}; phases are 0, 1, 2, …")
    if groups and min(group.thaw for group in groups.values()) > 0:
        raise InputError("nothing trains in the first phase: some group needs thaw=0")
    late = [p for p in ("head/kernel", "head/bias") if solves and (p not in groups or groups[p].thaw > 0)]
    if late:
        raise InputError(f"the head is solved first and trains from there, so {late[0]} must train from phase 0 on")


def head_index(model: Model) -> int:
    """The place of the head; raises `InputError` if the model has none."""
    if "head" not in model.names:
        if "logits" in model.stages[-1].writes:
            raise InputError("the network writes logits, so no head lies apart from it: let it write 'pooled' features")
        raise InputError("the model has no head to train: attach a task's first (task.attach(model))")
    return model.index("head")


def cut_of(model: Model, labels: Mapping[str, Any]) -> str:
    """The name of the lowest stage that reads a trainable leaf; raises `InputError` if all are `FROZEN`."""
    used = [model.first_use(path) for path, label in paths(labels).items() if label is not FROZEN]
    if not used:
        raise InputError("nothing trains: the rules freeze every leaf")
    return model.names[min(used)]


def fill(model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> dict[str, Any]:
    """The variables, with first values for the stages that have none yet (a new head); others are not touched."""
    check_variables(variables)
    params = variables["params"]
    new = [stage.name for stage in model.stages if (stage.home not in params if stage.home else not params)]
    filled = dict(variables)
    for collection, made in model.init(key, inputs, only=new).items() if new else ():
        there = variables.get(collection, {})
        filled[collection] = {**there, **{home: tree for home, tree in made.items() if home not in there}}
    return filled


def owners(model: Model, variables: Variables) -> list[str]:
    """The scopes that own parameters, in the order of the chain."""
    params = variables["params"]
    homes = dict.fromkeys(stage.home for stage in model.stages)
    return [home for home in homes if paths(params.get(home, {}) if home else params)]


def under(scope: str) -> str:
    """The pattern of the leaves in a scope."""
    return f"{re.escape(scope)}/.*" if scope else ".*"


def _decided(variables: Variables) -> dict[str, Any]:
    """The collections that rules decide; statistics and caches follow from their stages."""
    return {collection: variables[collection] for collection in ("params", "adapters") if variables.get(collection)}
