"""Methods that freeze at first and thaw later: which group trains from which phase on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods.plan import Plan, fill, head_index, owners, under
from tl_jax.methods.spec import Spec
from tl_jax.model import Model
from tl_jax.rules import Rule
from tl_jax.stage import State, Variables


@dataclass(frozen=True)
class GradualUnfreezing(Spec):
    """The head trains first, and from phase to phase one more group below it (ULMFiT: Howard & Ruder 2018).

    There are `phases` phases, fewer if the model has fewer stages: the head's, then the stages below it in groups of
    equal size, the smaller ones on top. A phase lasts an epoch, or an equal share of the steps where there are fewer
    epochs than phases; the last one takes what is left (arXiv 1801.06146, section 3.3). Its schedule is
    `slanted_triangular` unless another is given. `decay` multiplies the rate from stage to stage downwards, as in
    `discriminative`; ULMFiT itself has 1/2.6. Each phase compiles a step of its own.
    """

    phases: int = 4
    decay: float = 1.0
    name: ClassVar[str] = "gradual_unfreezing"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phases < 2:
            raise InputError(f"gradual_unfreezing: phases must be 2 or more, not {self.phases}")
        if not 0 < self.decay <= 1:
            raise InputError(f"gradual_unfreezing: decay must be above 0 and at most 1, not {self.decay}")

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        head_index(model)
        variables = fill(model, variables, key, inputs)
        head, *below = reversed(owners(model, variables))
        if head != "head":
            raise InputError(f"{self.name} starts with the head, but {head} lies above it")
        if not below:
            raise InputError(f"{self.name}: there is nothing below the head to thaw; probe trains the head alone")
        # `array_split` makes the first parts the larger ones, so it is given the stages from the bottom up.
        parts = np.array_split(below[::-1], min(self.phases - 1, len(below)))[::-1]
        thaws = {"head": 0} | {str(home): n for n, part in enumerate(parts, 1) for home in part}
        rules = [
            Rule(under(home), Group(f"phase_{thaws[home]}", lr=float(self.decay) ** level, thaw=thaws[home]))
            for level, home in enumerate([head, *below])
        ]
        if variables.get("adapters"):
            rules.append(Rule("adapters/.*", FROZEN))
        return Plan(model, variables, tuple(rules), self)
