"""What verifying needs to know of a kind of model: a module for each key of the state that a chain starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.verification import images, texts
from tl_jax.verification.verdict import Checked


class Kind(Protocol):
    """What such a module has.

    `PROCESSOR` is what makes inputs of texts or pictures, in a word; `HEADS` the classes of transformers that have a
    head, by the pooling below it ("none" of a language model).
    """

    PROCESSOR: str
    HEADS: dict[str, str]

    def batch(self, model: Model) -> dict[str, np.ndarray]:
        """The same inputs for the same model, through its own processor where it has one."""

    def given(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch as transformers takes it."""

    def asked(self, model: Model) -> dict[str, Any]:
        """What transformers' own processor is asked, as JSON; nothing where the model has none."""

    def prepared(self, batch: Mapping[str, np.ndarray]) -> Any:
        """What the processor gave, an example each, for comparison with another's."""

    def compared(self, ours: Any, theirs: Any, where: str) -> Checked:
        """Two processors' ways with the same; `where` says whose the other is."""


KINDS: dict[str, Kind] = {"tokens": texts, "image": images}


def kind_of(model: Model) -> Kind:
    """The model's kind; raises `InputError` for one that starts from something else."""
    found = next((kind for key, kind in KINDS.items() if key in model.inputs), None)
    if found is None:
        known, starts = " or ".join(KINDS), ", ".join(model.inputs)
        raise InputError(f"models that start from {starts} cannot be verified, but those that start from {known}")
    return found
