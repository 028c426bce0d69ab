"""What every metric is: a value that holds sums, and adds up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np


class Metrics(Protocol):
    """Sums over examples. New ones are empty; nothing changes in place.

    The law: however the examples are cut into batches and in whatever order these are merged, `result` is the same
    (to float64 rounding).
    """

    def update(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Self:
        """The sums of this batch alone. `outputs` and `batch` hold numpy arrays; rows of weight 0 never count."""
        ...

    def merge(self, other: Self) -> Self:
        """The sums of both."""
        ...

    def result(self) -> dict[str, Any]:
        """The figures, by name."""
        ...


def real_rows(values: Mapping[str, Any], weights: np.ndarray) -> dict[str, Any]:
    """`values` without the rows of weight 0, in every array whose leading axes are those of `weights`."""
    real = weights > 0

    def rows(value: Any) -> Any:
        by_row = isinstance(value, np.ndarray) and value.shape[: real.ndim] == real.shape
        return value[real] if by_row else value

    return {key: rows(value) for key, value in values.items()}
