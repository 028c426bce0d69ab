"""Any metric that is a weighted mean over examples, the user's own among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tl_jax.errors import InputError
from tl_jax.metrics.mergeable import real_rows

Function = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, Any]]


@dataclass(frozen=True)
class Mean:
    """sum / weight of what `function(outputs, batch) -> (sum, weight)` returns, added up in float64.

    The function is called with numpy arrays from which rows of padding (weight 0) are already gone (a batch of
    nothing else is not passed at all), and returns two numbers, or two arrays that are summed (one element an
    example, say). Without any weight the result is NaN.

    Raises InputError when the function returns something else.
    """

    name: str
    function: Function
    total: float = 0.0
    weight: float = 0.0

    def update(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Mean:
        """The sums of this batch alone; see `Metrics`."""
        weights = np.asarray(batch["weights"])
        if not (weights > 0).any():
            return replace(self, total=0.0, weight=0.0)
        found = self.function(real_rows(outputs, weights), real_rows(batch, weights))
        try:
            total, weight = (float(np.sum(np.asarray(part, np.float64))) for part in found)
        except (TypeError, ValueError) as error:
            raise InputError(f"the metric {self.name!r} must return (sum, weight), not {found!r}") from error
        return replace(self, total=total, weight=weight)

    def merge(self, other: Mean) -> Mean:
        """The sums of both."""
        return replace(self, total=self.total + other.total, weight=self.weight + other.weight)

    def result(self) -> dict[str, float]:
        """The mean, by its name."""
        return {self.name: self.total / self.weight if self.weight else float("nan")}
