"""What a transfer is measured against: the same architecture without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from tl_jax.groups import Group
from tl_jax.methods.plan import Plan
from tl_jax.methods.spec import Spec
from tl_jax.model import Model
from tl_jax.rules import Rule
from tl_jax.stage import State, Variables


@dataclass(frozen=True)
class Scratch(Spec):
    """Every parameter trains, from the random first values of the reference instead of the pre-trained ones."""

    name: ClassVar[str] = "scratch"

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        return Plan(model, model.init(key, inputs), (Rule(".*", Group("scratch")),), self)
