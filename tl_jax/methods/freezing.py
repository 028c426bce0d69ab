"""Methods that only choose among the leaves a model has: rules, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import jax

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods.plan import HEAD, REST_FROZEN, Plan, fill, head_index, owners, under
from tl_jax.methods.spec import Spec
from tl_jax.model import Model
from tl_jax.rules import Rule
from tl_jax.stage import State, Variables

_NUMBERED = re.compile(r"(\w+_)?(layers|blocks)_\d+")


@dataclass(frozen=True)
class Full(Spec):
    """Every parameter trains, a new head at `head_lr` times the rate of the rest.

    It starts from random values and has far to go, where the rest should go no further than it must. Ten times is
    customary (Long et al. 2015, arXiv 1502.02791, section 4.1); `docs/design.md` has what it is worth on one
    data set. With `head_lr=1` all train alike, as a head that came with the checkpoint does in any case.
    """

    head_lr: float = 10.0
    name: ClassVar[str] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_lr <= 0:
            raise InputError(f"full: head_lr must be above 0, not {self.head_lr}")

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        filled = fill(model, variables, key, inputs)
        is_new = "head" in filled["params"] and "head" not in variables["params"]
        head = [Rule(under("head"), Group("head", lr=float(self.head_lr)))] if is_new else []
        return Plan(model, filled, (*head, Rule(".*", Group("full"))), self)


@dataclass(frozen=True)
class LastLayers(Spec):
    """The last `k` of the stages `layers_i` (or `blocks_i`) train, and all above them: final norm, pooler, head.

    With `k=0` the head alone trains, by gradient steps (`probe` solves it). Raises `InputError` if the model has fewer
    layers, or if the chosen ones share their parameters with lower ones.
    """

    k: int
    name: ClassVar[str] = "last_layers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise InputError(f"last_layers: k must be 0 or more, not {self.k}")

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        first = self._first(model)
        variables = fill(model, variables, key, inputs)
        lower = {stage.home: stage.name for stage in model.stages[:first]}
        owning = owners(model, variables)
        upper = [stage for stage in model.stages[first:] if stage.home in owning]
        for stage in upper:
            if stage.home in lower:
                raise InputError(f"{self}: {stage.name} shares its parameters with {lower[stage.home]}, below the cut")
        homes = dict.fromkeys(stage.home for stage in upper)
        rules = [Rule(under(home), HEAD if home == "head" else Group("top")) for home in homes]
        return Plan(model, variables, (*rules, REST_FROZEN), self)

    def _first(self, model: Model) -> int:
        """The index of the lowest stage that trains."""
        if self.k == 0:
            return head_index(model)
        layers = [name for name in model.names if _NUMBERED.fullmatch(name)]
        if self.k > len(layers):
            there = f"{len(layers)} layers, {layers[0]} to {layers[-1]}" if layers else "no stages layers_i or blocks_i"
            raise InputError(f"{self}: the model has {there}")
        return model.index(layers[-self.k])


@dataclass(frozen=True)
class BitFit(Spec):
    """Biases alone, and the head (Ben Zaken, Ravfogel & Goldberg 2022, arXiv 2106.10199).

    Raises `InputError` if the model has no bias beside the head's.
    """

    name: ClassVar[str] = "bitfit"

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        head_index(model)
        rules = [Rule(under("head"), HEAD), Rule(r"(.*/)?bias", Group("biases")), REST_FROZEN]
        if variables.get("adapters"):
            rules.insert(0, Rule("adapters/.*", FROZEN))
        return Plan(model, fill(model, variables, key, inputs), tuple(rules), self)


@dataclass(frozen=True)
class Discriminative(Spec):
    """Everything trains, each stage at the learning rate of the one above it times `decay`; the top one at the run's.

    Discriminative fine-tuning (Howard & Ruder 2018, arXiv 1801.06146: each layer at 1/2.6 of the one above), for
    transformers layer-wise learning rate decay (Clark et al. 2020, arXiv 2003.10555: 0.8 to 0.9; Sun et al. 2019, arXiv
    1905.05583: 0.95 for BERT on text classification, the default here). The convention is that of timm: a stage n
    levels below the top has `decay**n`, every scope that owns parameters being one level. BERT with a mean pooling and
    L layers: head 1, `layers_{L-1}` decay, `layers_0` decay^L, embeddings decay^(L+1); a pooler with parameters is
    one more level, under the head. Layers that share parameters are one level.
    """

    decay: float = 0.95
    name: ClassVar[str] = "discriminative"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise InputError(f"discriminative: decay must be above 0 and at most 1, not {self.decay}")

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        variables = fill(model, variables, key, inputs)
        levels = reversed(owners(model, variables))
        rules = [Rule(under(home), Group(home or "model", lr=float(self.decay) ** n)) for n, home in enumerate(levels)]
        if variables.get("adapters"):
            rules.append(Rule("adapters/.*", FROZEN))
        return Plan(model, variables, tuple(rules), self)
